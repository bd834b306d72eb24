// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// maxSerialLog is the size above which a serial log is cut. A simulated guest
	// writes a few kilobytes per boot.
	maxSerialLog = 4 << 20
	// viewerPatience is how long a console may read nothing before it is closed.
	viewerPatience = time.Second
)

// serial is a serial port: its output is appended to a log, and sent to the client of a
// UNIX socket. As with QEMU, one client at a time is served and others wait. Input is
// discarded, because no simulated guest reads it.
type serial struct {
	listener *net.UnixListener
	serving  sync.WaitGroup

	mu   sync.Mutex
	log  *os.File // nil after close
	path string
	size int64
	// limit is the size above which the log is cut.
	limit  int64
	client net.Conn
}

// openSerial opens the log and serves the socket.
func openSerial(path, socket string) (*serial, error) {
	log, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the serial log: %w", err)
	}
	s := &serial{log: log, path: path, limit: maxSerialLog}
	info, err := log.Stat()
	if err == nil {
		s.size = info.Size()
		err = removeSocket("unix", socket)
	}
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serving the serial console: %w", err), log.Close())
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, s.listener.Close(), log.Close())
	}
	s.serving.Go(s.serve)
	return s, nil
}

// Write appends the guest's output. It never fails: a full disk or a slow console must
// not change what the guest does. It blocks for viewerPatience at most.
func (s *serial) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log == nil {
		return len(p), nil
	}
	n, _ := s.log.Write(p)
	s.size += int64(n)
	if s.size > s.limit {
		s.cut()
	}
	if s.client != nil {
		_ = s.client.SetWriteDeadline(time.Now().Add(viewerPatience))
		if _, err := s.client.Write(p); err != nil {
			_ = s.client.Close() // ends serveClient
			s.client = nil
		}
	}
	return len(p), nil
}

// cut moves the content of the log to a second file. The log stays the same file, which
// viewers may have opened. If the content cannot be copied, as on a full disk, it is
// lost: the log must not grow, and not be copied again with each line. The caller holds
// mu.
func (s *serial) cut() {
	if err := s.copyLog(s.path + ".1"); err != nil {
		_ = os.Remove(s.path + ".1") // in part; what it held before is lost already
	}
	if err := s.log.Truncate(0); err != nil {
		s.limit = s.size + maxSerialLog // tried again much later
		return
	}
	s.size, s.limit = 0, maxSerialLog
}

// copyLog copies the content of the log. The caller holds mu.
func (s *serial) copyLog(path string) error {
	to, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.NewSectionReader(s.log, 0, s.size))
	return errors.Join(err, to.Close())
}

// offset returns the size of the log.
func (s *serial) offset() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// serve serves clients until the listener is closed.
func (s *serial) serve() {
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(viewerPatience) // such as for lack of descriptors
			continue
		}
		s.serveClient(conn)
	}
}

func (s *serial) serveClient(conn net.Conn) {
	defer conn.Close()
	s.mu.Lock()
	if s.log == nil {
		s.mu.Unlock()
		return
	}
	s.client = conn
	s.mu.Unlock()
	_, _ = io.Copy(io.Discard, conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == conn {
		s.client = nil
	}
}

// close closes the log, the socket and its client. Idempotent.
func (s *serial) close() {
	s.mu.Lock()
	log, client := s.log, s.client
	s.log, s.client = nil, nil
	s.mu.Unlock()
	if log == nil {
		return
	}
	_ = s.listener.Close() // removes the socket
	if client != nil {
		_ = client.Close()
	}
	s.serving.Wait()
	_ = log.Close()
}
