// SPDX-License-Identifier: Apache-2.0

package installer

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func files(m map[string]string) fs.FS {
	tree := fstest.MapFS{}
	for name, text := range m {
		tree[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return tree
}

func TestFindBootEntry(t *testing.T) {
	type want struct{ Kernel, Initrd, Cmdline string }
	for name, c := range map[string]struct {
		root, boot map[string]string
		want       want
		none       bool
	}{
		"Debian's grub.cfg": {
			root: map[string]string{
				"boot/vmlinuz-6.1.0-9-amd64": "", "boot/initrd.img-6.1.0-9-amd64": "",
				"boot/grub/grub.cfg": "set default=\"0\"\nmenuentry 'Debian' {\n\tsearch --no-floppy --fs-uuid --set=root 1-2\n" +
					"\techo 'Loading Linux'\n" +
					"\tlinux\t/boot/vmlinuz-6.1.0-9-amd64 root=PARTUUID=1234 ro  console=tty0 console=ttyS0,115200\n" +
					"\tinitrd\t/boot/initrd.img-6.1.0-9-amd64\n}\nmenuentry 'old' {\n\tlinux /boot/old root=x\n\tinitrd /boot/old\n}\n",
			},
			want: want{"boot/vmlinuz-6.1.0-9-amd64", "boot/initrd.img-6.1.0-9-amd64", "root=PARTUUID=1234 ro console=tty0 console=ttyS0,115200"},
		},
		"Ubuntu's separate /boot": {
			root: map[string]string{"etc/fstab": ""},
			boot: map[string]string{
				"vmlinuz-6.8.0-31-generic": "", "initrd.img-6.8.0-31-generic": "",
				"grub/grub.cfg": "  if [ \"${initrdfail}\" = 1 ]; then\n" +
					"    linux /vmlinuz-6.8.0-31-generic root=LABEL=cloudimg-rootfs ro console=tty1\n" +
					"    initrd /initrd.img-6.8.0-31-generic\n  else\n" +
					"    linux /vmlinuz-6.8.0-31-generic root=PARTUUID=1 ro panic=-1\n  fi\n",
			},
			want: want{"vmlinuz-6.8.0-31-generic", "initrd.img-6.8.0-31-generic", "root=LABEL=cloudimg-rootfs ro console=tty1"},
		},
		"newest boot loader entry": {
			root: map[string]string{
				"boot/k-9": "", "boot/k-10": "", "boot/i-9": "", "boot/i-10": "",
				"boot/loader/entries/m-9.conf": "linux /boot/k-9\ninitrd /boot/i-9\noptions root=UUID=a\n",
				"boot/loader/entries/m-10.conf": "title New\nversion 10\nlinux /boot/k-10\ninitrd /boot/i-10 $tuned_initrd\n" +
					"options root=UUID=a ro $tuned_params\noptions quiet\n",
				"boot/loader/entries/m-0-rescue.conf": "linux /boot/k-9\n",
			},
			want: want{"boot/k-10", "boot/i-10", "root=UUID=a ro quiet"},
		},
		"Debian's symlinks": {
			root: map[string]string{
				"vmlinuz": "", "initrd.img": "",
				"etc/default/grub":               "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"net.ifnames=0\"\n",
				"etc/default/grub.d/10_own.cfg":  "GRUB_CMDLINE_LINUX_DEFAULT=\"splash\"\n",
				"etc/default/grub.d/20_expr.cfg": "GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT more\"\n",
			},
			want: want{"vmlinuz", "initrd.img", "root=UUID=u ro net.ifnames=0 splash console=ttyS0"},
		},
		"unresolved GRUB variable": {
			root: map[string]string{"boot/k": "", "boot/i": "", "boot/grub/grub.cfg": "linux /boot/k root=$rootdev ro\ninitrd /boot/i\n"},
			none: true,
		},
		"missing kernel": {
			root: map[string]string{"boot/grub/grub.cfg": "linux /boot/k root=a ro\ninitrd /boot/i\n"},
			none: true,
		},
		"path outside the root": {
			root: map[string]string{"boot/grub/grub.cfg": "linux /../../k root=a ro\ninitrd ../../i\n"},
			none: true,
		},
		"nothing": {none: true},
	} {
		t.Run(name, func(t *testing.T) {
			var boot fs.FS
			if c.boot != nil {
				boot = files(c.boot)
			}
			e, err := findBootEntry(files(c.root), boot, "UUID=u", "console=ttyS0")
			if c.none {
				if !errors.Is(err, errNoEntry) {
					t.Errorf("got %+v, %v, want %v", e, err, errNoEntry)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, want{e.Kernel, e.Initrd, e.Cmdline}); diff != "" {
				t.Errorf("boot entry (-want +got):\n%s", diff)
			}
		})
	}
}
