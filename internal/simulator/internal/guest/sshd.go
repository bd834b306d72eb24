// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	crand "crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

const (
	sshPort    = 22
	sshVersion = "SSH-2.0-OpenSSH_10.0p2 Debian-7"
	// maxSessions bounds the connections, loginGrace the time until a client is
	// authenticated, and sessionLimit that of a connection.
	maxSessions  = 8
	loginGrace   = 2 * time.Minute
	sessionLimit = 10 * time.Minute
	// noShell is what a session prints before it ends.
	noShell = "This machine is simulated and runs no commands.\r\n"
)

// newHostKeys returns private keys in OpenSSH's format, Ed25519 first. There is no RSA
// key: making one takes a second of a processor, which a thousand machines do not
// have.
func newHostKeys(comment string) ([]string, error) {
	_, ed, err := ed25519.GenerateKey(crand.Reader)
	if err != nil {
		return nil, err
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, key := range []crypto.PrivateKey{ed, ec} {
		block, err := ssh.MarshalPrivateKey(key, comment)
		if err != nil {
			return nil, err
		}
		keys = append(keys, string(pem.EncodeToMemory(block)))
	}
	return keys, nil
}

// publicKeys returns the public keys as cloud-init finds them in /etc/ssh, by the name
// of their type.
func (r *record) publicKeys(comment string) map[string]string {
	keys := map[string]string{}
	for _, text := range r.HostKeys {
		signer, err := ssh.ParsePrivateKey([]byte(text))
		if err != nil {
			continue
		}
		public := signer.PublicKey()
		line := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(public))) + " " + comment + "\n"
		switch public.Type() {
		case ssh.KeyAlgoED25519:
			keys["ed25519"] = line
		case ssh.KeyAlgoECDSA256:
			keys["ecdsa"] = line
		}
	}
	return keys
}

// sshServer answers on the SSH port: with a banner and key exchange to everyone, with
// a session that runs nothing to the accounts of cloud-init's configuration.
type sshServer struct {
	listener *gonet.TCPListener
	config   *ssh.ServerConfig
	places   chan struct{}
	running  sync.WaitGroup
	// onPanic is Config.OnPanic.
	onPanic func(cause any)

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func newSSHServer(w *network, r *record) (*sshServer, error) {
	var accounts []account
	if r.Instance != nil {
		accounts = r.Instance.Accounts
	}
	config := &ssh.ServerConfig{ServerVersion: sshVersion, PublicKeyCallback: authorize(accounts)}
	for _, text := range r.HostKeys {
		signer, err := ssh.ParsePrivateKey([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("reading a host key: %w", err)
		}
		config.AddHostKey(signer)
	}
	listener, err := w.listenTCP(sshPort)
	if err != nil {
		return nil, err
	}
	s := &sshServer{
		listener: listener, config: config, places: make(chan struct{}, maxSessions), conns: map[net.Conn]bool{}, onPanic: w.onPanic,
	}
	s.running.Go(s.accept)
	return s, nil
}

var errUnauthorized = errors.New("this key may not log in")

// authorize accepts the keys of an account.
func authorize(accounts []account) func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
	return func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		for _, a := range accounts {
			if a.Name != c.User() {
				continue
			}
			for _, line := range a.Keys {
				known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
				if err == nil && bytes.Equal(known.Marshal(), key.Marshal()) {
					return &ssh.Permissions{}, nil
				}
			}
		}
		return nil, errUnauthorized
	}
}

func (s *sshServer) accept() {
	defer rescue(s.onPanic)
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		select {
		case s.places <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		if !s.add(conn) {
			_ = conn.Close()
			return
		}
		s.running.Go(func() {
			defer rescue(s.onPanic)
			defer func() { <-s.places }()
			defer s.remove(conn)
			s.serve(conn)
		})
	}
}

func (s *sshServer) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[conn] = true
	return true
}

func (s *sshServer) remove(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func (s *sshServer) serve(conn net.Conn) {
	if err := conn.SetDeadline(time.Now().Add(loginGrace)); err != nil {
		return
	}
	session, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	defer session.Close()
	if err := conn.SetDeadline(time.Now().Add(sessionLimit)); err != nil {
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { ssh.DiscardRequests(requests) })
	for channel := range channels {
		if channel.ChannelType() != "session" {
			_ = channel.Reject(ssh.UnknownChannelType, "only sessions are simulated")
			continue
		}
		c, requests, err := channel.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer rescue(s.onPanic)
			refuseSession(c, requests)
		})
	}
}

// refuseSession answers a command or a shell with a message and exit status 1.
func refuseSession(c ssh.Channel, requests <-chan *ssh.Request) {
	defer c.Close()
	for r := range requests {
		run := r.Type == "shell" || r.Type == "exec"
		if r.WantReply {
			_ = r.Reply(run || r.Type == "pty-req" || r.Type == "env", nil)
		}
		if run {
			_, _ = c.Write([]byte(noShell))
			_, _ = c.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{1}))
			_ = c.Close()
		}
	}
}

// close ends the listener and all connections.
func (s *sshServer) close() {
	s.mu.Lock()
	s.closed = true
	var conns []net.Conn
	for conn := range s.conns {
		conns = append(conns, conn)
	}
	s.mu.Unlock()
	s.listener.Shutdown()
	_ = s.listener.Close()
	for _, conn := range conns {
		// Close of netstack's connection does not wake its reader.
		_ = conn.SetDeadline(time.Unix(1, 0))
		_ = conn.Close()
	}
}

// wait waits for the server's goroutines.
func (s *sshServer) wait() { s.running.Wait() }
