// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

const (
	// maxScript bounds a script, in bytes.
	maxScript = 64 << 10
	// abortAfter is how many bytes of a file are received before a fault breaks the
	// transfer off.
	abortAfter = 1 << 10
)

var scriptMagic = []byte("#!ipxe")

func hasScheme(uri string) bool { return strings.Contains(uri, ":") }

// fetch downloads a file, prints the outcome as iPXE does and returns it.
func (x *ipxe) fetch(ctx context.Context, name, uri string, timeout time.Duration) (*ipxeImage, error) {
	image, err := x.download(ctx, name, uri, timeout)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	shown, _, _ := strings.Cut(uri, "?")
	x.g.serial.line("%s... %s", shown, outcome(err))
	if err != nil {
		return nil, err
	}
	return image, nil
}

// download fetches a file over HTTP or TFTP. It keeps scripts and discards all else.
func (x *ipxe) download(ctx context.Context, name, uri string, timeout time.Duration) (*ipxeImage, error) {
	if x.network == nil {
		return nil, errIPXENoDevice
	}
	x.commands = 0
	u, err := url.Parse(uri)
	if err != nil {
		return nil, errIPXEUsage
	}
	if name == "" {
		name = path.Base(u.Path)
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	sink := &scriptSink{}
	switch u.Scheme {
	case "http":
		err = x.get(ctx, u, sink)
	case "tftp":
		err = x.getTFTP(ctx, u, sink)
	default:
		err = errIPXEScheme
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errIPXETimeout
	}
	if err != nil {
		return nil, err
	}
	image := &ipxeImage{name: name, uri: uri, size: sink.size}
	if bytes.HasPrefix(sink.kept, scriptMagic) {
		if sink.size > maxScript {
			return nil, errIPXEMemory
		}
		image.script = sink.kept
	}
	return image, nil
}

// scriptSink keeps the beginning of a file if it is a script.
type scriptSink struct {
	kept []byte
	size int64
}

func (s *scriptSink) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	room := maxScript - len(s.kept)
	whole := bytes.HasPrefix(s.kept, scriptMagic)
	if !whole && len(s.kept) < len(scriptMagic) {
		whole = true
	}
	if whole && room > 0 {
		s.kept = append(s.kept, p[:min(room, len(p))]...)
		if len(s.kept) >= len(scriptMagic) && !bytes.HasPrefix(s.kept, scriptMagic) {
			s.kept = s.kept[:len(scriptMagic):len(scriptMagic)]
		}
	}
	return len(p), nil
}

// get fetches a file over HTTP.
func (x *ipxe) get(ctx context.Context, u *url.URL, sink io.Writer) error {
	r := httpRequest{
		method: http.MethodGet, url: u, stall: ipxeStall,
		head: "GET " + u.RequestURI() + " HTTP/1.1\r\n" +
			"Connection: keep-alive\r\n" +
			"User-Agent: iPXE/" + ipxeVersion + "\r\n" +
			"Host: " + u.Host,
	}
	resp, err := x.http.do(ctx, r)
	if err != nil {
		return ipxeNetworkError(ctx, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return errIPXENotFound
	case resp.StatusCode != http.StatusOK:
		return errIPXEServer
	}
	body := io.Reader(resp.Body)
	if x.g.faults[ScriptAbort] && !strings.HasSuffix(u.Path, ".ipxe") && u.RawQuery == "" {
		// A response that is not read to its end closes the connection.
		if _, err := io.CopyN(sink, body, max(0, min(abortAfter, resp.ContentLength/2))); err != nil {
			return ipxeNetworkError(ctx, err)
		}
		return errIPXEReset
	}
	if _, err := io.Copy(sink, body); err != nil {
		return ipxeNetworkError(ctx, err)
	}
	return nil
}

// ipxeNetworkError returns iPXE's error for one of the TCP/IP stack.
func ipxeNetworkError(ctx context.Context, err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errNoName):
		return errIPXENoName
	case errors.Is(err, errScheme):
		return errIPXEScheme
	case errors.As(err, &timeout) && timeout.Timeout():
		return errIPXETimeout
	}
	return errIPXEReset
}

// getTFTP fetches a file over TFTP.
func (x *ipxe) getTFTP(ctx context.Context, u *url.URL, sink io.Writer) error {
	server, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return errIPXENoName
	}
	if u.Port() != "" && u.Port() != strconv.Itoa(tftpPort) {
		return errIPXEScheme
	}
	_, err = x.network.tftp(ctx, tftpRequest{
		server: server, name: strings.TrimPrefix(u.Path, "/"),
		options: [][2]string{{"blksize", ipxeBlock}, {"tsize", "0"}},
		wait:    time.Second / x.g.hurry, tries: 6,
	}, sink)
	var refused *tftpServerError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &refused):
		return errIPXETFTPNone
	case errors.Is(err, errTFTPSilent):
		return errIPXETFTPTimeout
	}
	return errIPXEReset
}
