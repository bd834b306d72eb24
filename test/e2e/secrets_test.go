// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/plan"
)

// machineURL matches the part of a machine's URLs that contains its token.
var machineURL = regexp.MustCompile(`/m/[A-Za-z0-9_-]+`)

// secretsStaySecret searches for the lab's secrets where any user, or the recipient
// of a log, could read them.
func secretsStaySecret(t *testing.T, l *lab) {
	privateFiles(t, l.data)
	privateFiles(t, l.runtime)
	secrets := l.secrets(t)
	look := func(where string, text []byte) {
		for name, value := range secrets {
			if bytes.Contains(text, []byte(value)) {
				t.Errorf("%s contains %s", where, name)
			}
		}
	}
	for _, pattern := range []string{"logs/*", "run/*", "machines/*/*.json", "machines/*/*.log"} {
		files, err := filepath.Glob(filepath.Join(l.data, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: got %d files, error %v, want at least one", pattern, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Base(file) == "serial.log" {
				// iPXE and the kernel print their URLs: see docs/security.md.
				text = machineURL.ReplaceAll(text, nil)
			}
			look(file, text)
		}
	}
	for _, target := range targets {
		text, err := l.run(t.Context(), "bin/kubectl-lab", "logs", target)
		if err != nil {
			t.Fatalf("kubectl lab logs: %v\n%s", err, text)
		}
		look("kubectl lab logs "+target, []byte(text))
	}
	for _, list := range []client.ObjectList{
		&v1alpha1.ProvisioningServerList{}, &v1alpha1.BootProfileList{}, &v1alpha1.BareMetalTargetList{}, &eventsv1.EventList{},
	} {
		if err := l.client.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		text, err := yaml.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		look("the API", text)
	}
	processes(t, l.data, look)
}

// privateFiles checks the modes of all files and directories below dir.
func privateFiles(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // removed meanwhile
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
		case info.Mode().Perm()&0o077 != 0:
			t.Errorf("%s: got mode %v, want no access for other users", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// secrets returns the lab's secrets, by description.
func (l *lab) secrets(t *testing.T) map[string]string {
	out := map[string]string{}
	var list corev1.SecretList
	if err := l.client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Items {
		for key, value := range s.Data {
			name := "secret " + s.Name + ", key " + key
			switch {
			case bytes.Contains(value, []byte("PRIVATE KEY")):
				// A part of a line in the middle of the key, independent of wrapping.
				out[name] = strings.Split(string(value), "\n")[1][20:]
			case key == "token-key":
				out[name] = base64.StdEncoding.EncodeToString(value)
				for _, target := range targets {
					o := l.target(t, target)
					if s.Name == o.Spec.ProvisioningServerRef.Name+"-agent" {
						out["the boot secret of "+target] = plan.Token(value, o)
						out["the seed secret of "+target] = plan.SeedToken(value, o)
					}
				}
			}
		}
	}
	kubeconfig, err := os.ReadFile(l.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	var admin struct {
		Users []struct {
			User struct {
				Key string `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(kubeconfig, &admin); err != nil || len(admin.Users) != 1 || len(admin.Users[0].User.Key) < 100 {
		t.Fatalf("kubeconfig: got error %v, %d users, want one user with a key", err, len(admin.Users))
	}
	out["the admin's key"] = admin.Users[0].User.Key[40:100]
	if len(out) < 6 {
		t.Fatalf("got only %d secrets, want at least 6", len(out))
	}
	return out
}

// processes passes the arguments and the environment of the lab's processes to look.
func processes(t *testing.T, data string, look func(string, []byte)) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		argv, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !bytes.Contains(argv, []byte(data)) {
			continue
		}
		seen++
		program, _, _ := strings.Cut(string(argv), "\x00")
		look("the arguments of "+program, argv)
		if env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ")); err == nil {
			look("the environment of "+program, env)
		}
	}
	if seen < 3 {
		t.Errorf("got only %d processes of the lab, want at least 3", seen)
	}
}
