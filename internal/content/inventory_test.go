// SPDX-License-Identifier: Apache-2.0

package content

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pxelab/pxelab/internal/artifact"
)

func (l *lab) stored(t *testing.T) map[string]artifact.Stored {
	t.Helper()
	all, err := l.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]artifact.Stored{}
	for _, s := range all {
		out[s.Digest] = s
	}
	return out
}

// replaceRecipes edits the records of derived content, as if an earlier program had
// written them.
func (l *lab) replaceRecipes(t *testing.T, old, new string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(l.store, "derived", "*"))
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if edited := strings.ReplaceAll(string(raw), old, new); edited != string(raw) {
			changed++
			write(t, name, []byte(edited))
		}
	}
	if changed == 0 {
		t.Fatalf("no record of %v contains %q", names, old)
	}
}

func TestInventoryKnowsOriginsOfCurrentConversions(t *testing.T) {
	l := newLab(t)
	src, _ := l.image(t, "image.qcow2", "qcow2")
	stream, err := l.Stream(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := l.Overlay(t.Context(), "x86_64")
	if err != nil {
		t.Fatal(err)
	}
	image, ok := l.Recorded(src)
	if !ok {
		t.Fatal("the image has no record")
	}
	all := l.stored(t)
	if from := all[stream.Digest].From; len(from) != 1 || from[0] != image {
		t.Errorf("stream: got origins %v, want %s", from, image)
	}
	if from := all[overlay.Digest].From; len(from) != 1 {
		t.Errorf("overlay: got origins %v, want the installer", from)
	}
	l.replaceRecipes(t, "stream version", "stream version 0 or")
	all = l.stored(t)
	if s, ok := all[stream.Digest]; !ok || s.From != nil {
		t.Errorf("stream of an earlier program: got %+v, %v; want no origins", s, ok)
	}
	removed, err := l.Remove(t.Context(), []artifact.Stored{all[stream.Digest]})
	if err != nil || removed.Files != 1 {
		t.Errorf("Remove: got %+v, %v; want one file", removed, err)
	}
	if again, err := l.Stream(t.Context(), src, nil); err != nil || again != stream {
		t.Errorf("after the removal: got %+v, %v; want %+v again", again, err, stream)
	}
	if free, err := l.FreeSpace(); err != nil || free <= 0 {
		t.Errorf("FreeSpace: got %d, %v; want a positive number", free, err)
	}
}
