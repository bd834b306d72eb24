// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/access"
	"github.com/pxelab/pxelab/internal/paths"
)

// asProgram makes the test binary behave as kubectl-lab, which ssh runs as its
// ProxyCommand.
const asProgram = "KUBECTL_LAB_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// guest is an SSH server that runs the commands of its only user with sh.
type guest struct {
	address string
	hostKey ssh.Signer
}

func newSigner(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

func newGuest(t *testing.T, authorized ssh.PublicKey) *guest {
	t.Helper()
	hostKey, _ := newSigner(t)
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() == "lab" && bytes.Equal(key.Marshal(), authorized.Marshal()) {
				return nil, nil
			}
			return nil, fmt.Errorf("not %s's key", c.User())
		},
	}
	config.AddHostKey(hostKey)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				serveSSH(c, config)
			})
		}
	})
	t.Cleanup(func() { l.Close(); served.Wait() })
	return &guest{address: l.Addr().String(), hostKey: hostKey}
}

func serveSSH(c net.Conn, config *ssh.ServerConfig) {
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			if r.Type != "exec" {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			var command struct{ Line string }
			_ = ssh.Unmarshal(r.Payload, &command)
			sh := exec.Command("sh", "-c", command.Line)
			sh.Stdin = channel
			sh.Stdout = channel
			sh.Stderr = channel.Stderr()
			_ = sh.Run()
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(sh.ProcessState.ExitCode())}))
			channel.Close()
		}
	}
}

// lab consists of a manager, a cluster and one target.
type lab struct {
	target *v1alpha1.BareMetalTarget
	guest  *guest
	secret *corev1.Secret
	dirs   paths.Dirs
}

func (l *lab) DialSSH(ctx context.Context, m access.Ref) (net.Conn, error) {
	if m.Name != l.target.Name {
		return nil, access.ErrNotFound
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", l.guest.address)
}

func (l *lab) SerialSocket(context.Context, access.Ref) (string, error) {
	return filepath.Join(l.dirs.Runtime, "serial.sock"), nil
}

func (l *lab) SerialLog(context.Context, access.Ref) (string, error) {
	return filepath.Join(l.dirs.Data, "serial.log"), nil
}

func (l *lab) Capacity(context.Context) (access.Capacity, error) {
	return access.Capacity{
		Memory: access.Usage{Used: 3584 << 20, Limit: 4 << 30}, Installations: access.Usage{Used: 1, Limit: 8}, Machines: 2,
		Waiting: []access.Waiting{{Kind: access.Target, Namespace: "default", Name: "target-2", Reason: "HostFull", Message: "no memory"}},
	}, nil
}

// User and Authorize let everyone in: the API server has authenticated users.
func (l *lab) User(*http.Request) (access.User, error) { return access.User{Name: "jane"}, nil }

func (l *lab) Authorize(context.Context, access.User, access.Attributes) (bool, string, error) {
	return true, "", nil
}

func newLab(t *testing.T) *lab {
	t.Helper()
	base, err := os.MkdirTemp("", "px 'l%b-") // characters that require quoting
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	l := &lab{dirs: paths.Dirs{Data: base + "/d", Cache: base + "/c", Runtime: base + "/r"}}
	if err := l.dirs.Ensure(); err != nil {
		t.Fatal(err)
	}
	t.Setenv(paths.EnvData, l.dirs.Data)
	t.Setenv(paths.EnvCache, l.dirs.Cache)
	t.Setenv(paths.EnvRuntime, l.dirs.Runtime)
	t.Setenv(asProgram, "1")

	identity, private := newSigner(t)
	l.guest = newGuest(t, identity.PublicKey())
	l.target = &v1alpha1.BareMetalTarget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "target-1", UID: "c0ffee00-0000-4000-8000-000000000001"},
		Spec:       v1alpha1.BareMetalTargetSpec{ProvisioningServerRef: v1alpha1.LocalObjectReference{Name: "lab"}},
		Status: v1alpha1.BareMetalTargetStatus{
			Phase: v1alpha1.TargetReady, SSHUser: "lab",
			SSHHostKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(l.guest.hostKey.PublicKey()))) + " root@target-1"},
		},
	}
	l.secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lab-ssh"},
		Type:       corev1.SecretTypeSSHAuth,
		Data:       map[string][]byte{corev1.SSHAuthPrivateKey: private},
	}

	h := access.NewHandler(access.HandlerOptions{Backend: l, Authenticator: l, Authorizer: l})
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		h.Close()
		server.Close()
	})
	l.kubeconfig(t, server.URL)
	return l
}

// kubeconfig makes an address that of the lab's API server.
func (l *lab) kubeconfig(t *testing.T, server string) {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{Server: server}
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab"}
	config.CurrentContext = "lab"
	if err := clientcmd.WriteToFile(*config, l.dirs.Kubeconfig()); err != nil {
		t.Fatal(err)
	}
}

// run runs kubectl-lab with the given arguments.
func (l *lab) run(t *testing.T, in string, args ...string) (out, errOut string, err error) {
	t.Helper()
	a := newApp()
	a.newClient = func() (client.Client, error) {
		scheme := runtime.NewScheme()
		if err := clientgoscheme.AddToScheme(scheme); err != nil {
			return nil, err
		}
		if err := v1alpha1.AddToScheme(scheme); err != nil {
			return nil, err
		}
		return fake.NewClientBuilder().WithScheme(scheme).WithObjects(l.target, l.secret).Build(), nil
	}
	var stdout, stderr bytes.Buffer
	a.streams.In = strings.NewReader(in)
	a.streams.Out = &stdout
	a.streams.ErrOut = &stderr
	root := a.command()
	root.SetArgs(append([]string{"--namespace", "default", "--kubeconfig", l.dirs.Kubeconfig()}, args...))
	err = root.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func TestSSH(t *testing.T) {
	l := newLab(t)

	out, errOut, err := l.run(t, "", "ssh", "target-1", "--", "echo", "hello", "-n")
	if err != nil || out != "hello -n\n" {
		t.Errorf("got output %q, error %v, want \"hello -n\\n\"; stderr: %s", out, err, errOut)
	}
	// Input is forwarded to its end. The dashes are optional.
	out, errOut, err = l.run(t, "to be\nor not", "ssh", "lab@target/target-1", "tr", "a-z", "A-Z")
	if err != nil || out != "TO BE\nOR NOT" {
		t.Errorf("got output %q, error %v, want the input in upper case; stderr: %s", out, err, errOut)
	}
	// The exit status is the command's.
	if _, errOut, err = l.run(t, "", "ssh", "target-1", "--", "exit 7"); err != exitError(7) {
		t.Errorf("got error %v, want status 7; stderr: %s", err, errOut)
	}
	// The lab's key is not authorised for other users.
	_, errOut, err = l.run(t, "", "ssh", "root@target-1", "--", "true")
	if err != exitError(255) || !strings.Contains(errOut, "Permission denied") {
		t.Errorf("got error %v, want status 255 and \"Permission denied\"; stderr: %s", err, errOut)
	}
	left, err := filepath.Glob(filepath.Join(l.dirs.Runtime, "ssh-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("got leftover files %v, error %v, want none", left, err)
	}
}

func TestSSHRefusesAnotherMachine(t *testing.T) {
	l := newLab(t)
	impostor, _ := newSigner(t)
	l.target.Status.SSHHostKeys = []string{string(ssh.MarshalAuthorizedKey(impostor.PublicKey()))}
	_, errOut, err := l.run(t, "", "ssh", "target-1", "--", "true")
	if err != exitError(255) || !strings.Contains(errOut, "Host key verification failed") {
		t.Errorf("got error %v, want status 255 and a failed verification; stderr: %s", err, errOut)
	}
}

func TestSSHErrors(t *testing.T) {
	tests := map[string]struct {
		change func(*lab)
		arg    string
		want   string
	}{
		"not ready": {
			change: func(l *lab) {
				l.target.Status.Phase = v1alpha1.TargetInstalling
				l.target.Status.Progress = "37%"
				l.target.Status.Message = "writing the image"
			},
			arg: "target-1", want: "is not Ready: Installing 37%: writing the image",
		},
		"not reconciled": {change: func(l *lab) { l.target.Status.Phase = "" }, arg: "target-1", want: "not yet reconciled by the manager"},
		"no host keys":   {change: func(l *lab) { l.target.Status.SSHHostKeys = nil }, arg: "target-1", want: "none are known"},
		"host key with marker": {
			change: func(l *lab) { l.target.Status.SSHHostKeys = []string{"@cert-authority * ssh-ed25519 AAAA"} },
			arg:    "target-1", want: "is not a host key",
		},
		"two host keys in one": {
			change: func(l *lab) { l.target.Status.SSHHostKeys[0] += "\n* " + l.target.Status.SSHHostKeys[0] },
			arg:    "target-1", want: "is not a host key",
		},
		"no private key":    {change: func(l *lab) { l.secret.Data = nil }, arg: "target-1", want: "has no ssh-privatekey"},
		"no secret":         {change: func(l *lab) { l.secret.Name = "other" }, arg: "target-1", want: "default/lab-ssh"},
		"unknown target":    {change: func(*lab) {}, arg: "target-9", want: `"target-9" not found`},
		"invalid user name": {change: func(*lab) {}, arg: "a b@target-1", want: "is not a valid user name"},
		"other kind":        {change: func(*lab) {}, arg: "pod/x", want: "is not a machine"},
	}
	l := newLab(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			changed := &lab{target: l.target.DeepCopy(), secret: l.secret.DeepCopy(), guest: l.guest, dirs: l.dirs}
			tt.change(changed)
			if _, _, err := changed.run(t, "", "ssh", tt.arg, "--", "true"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one that contains %q", err, tt.want)
			}
		})
	}
}

func TestSSHConfig(t *testing.T) {
	l := newLab(t)
	config, _, err := l.run(t, "", "ssh-config", "target-1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.dirs.Data, "lab.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh", "-F", file, "target-1", "echo works").Output()
	if err != nil || string(out) != "works\n" {
		t.Errorf("got output %q, error %v, want \"works\\n\"; configuration:\n%s", out, err, config)
	}
}

func TestProxyWithoutManager(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for name, tt := range map[string]struct{ address, want string }{
		"no access API": {other.URL, "kubectl get apiservice v1alpha1.access.pxelab.io"},
		"no API server": {"http://127.0.0.1:1", "make up"},
	} {
		l := newLab(t)
		l.kubeconfig(t, tt.address)
		if _, _, err := l.run(t, "", "proxy", "target-1"); err == nil || !strings.Contains(explain(err).Error(), tt.want) {
			t.Errorf("%s: got error %v, want one that contains %q", name, explain(err), tt.want)
		}
	}
}

func TestClusterArguments(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("kubeconfig", "", "")
	flags.String("context", "kind-pxelab", "")
	flags.String("token", "secret", "")
	for environment, want := range map[string][]string{
		"":             {"--context", "kind-pxelab"},
		"/home/k":      {"--kubeconfig", "/home/k", "--context", "kind-pxelab"},
		"/home/k:/etc": {"--context", "kind-pxelab"},
	} {
		t.Setenv("KUBECONFIG", environment)
		got, err := clusterArguments(flags)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("KUBECONFIG=%s: got error %v, arguments (-want +got):\n%s", environment, err, diff)
		}
	}
}
