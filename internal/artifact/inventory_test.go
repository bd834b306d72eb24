// SPDX-License-Identifier: Apache-2.0

package artifact

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// anyRecipe is for inventories to which the recipes do not matter.
func anyRecipe(string) bool { return true }

// double derives content that is twice its origin.
func double(t *testing.T, s *Store, a Artifact, recipe string) Derived {
	t.Helper()
	d, err := s.Derive(t.Context(), a, recipe, nil, func(_ context.Context, b *Build) (map[string]string, error) {
		in, err := os.ReadFile(a.Path)
		if err != nil {
			return nil, err
		}
		return nil, os.WriteFile(b.Path, append(in, in...), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func inventory(t *testing.T, s *Store) []Stored {
	t.Helper()
	all, err := s.Inventory(anyRecipe)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func digestsOf(all []Stored) []string {
	var out []string
	for _, s := range all {
		out = append(out, s.Digest)
	}
	slices.Sort(out)
	return out
}

func TestInventory(t *testing.T) {
	s := newStore(t)
	content := noise(9000, 1)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	before := time.Now().Add(-time.Second)
	a, err := s.Ensure(t.Context(), Source{URL: url + "/a", Checksum: sha256Of(content)}, nil)
	wantContent(t, a, err, content)
	d := double(t, s, a, "new")
	all, err := s.Inventory(func(recipe string) bool { return recipe == "new" })
	if err != nil {
		t.Fatal(err)
	}
	from := map[string][]string{}
	for _, e := range all {
		from[e.Digest] = e.From
		if e.Bytes <= 0 || e.UsedAt.Before(before) {
			t.Errorf("got %+v, want its disk space and when it was stored", e)
		}
	}
	if diff := cmp.Diff(map[string][]string{a.Digest: nil, d.Digest: {a.Digest}}, from); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
	all, err = s.Inventory(func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.From != nil {
			t.Errorf("got %+v from a recipe of an older program, want no origin", e)
		}
	}
}

func TestInventoryShowsUse(t *testing.T) {
	s := newStore(t)
	content := noise(100, 1)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	a, err := s.Ensure(t.Context(), Source{URL: url + "/a", Checksum: sha256Of(content)}, nil)
	wantContent(t, a, err, content)
	first := inventory(t, s)[0].UsedAt
	if _, ok := s.Get(a.Digest); !ok {
		t.Fatal("the content is missing")
	}
	if again := inventory(t, s)[0].UsedAt; !again.After(first) {
		t.Errorf("after Get: got used at %s, want later than %s", again, first)
	}
}

func TestRemove(t *testing.T) {
	s := newStore(t)
	contents := map[string][]byte{"/keep": noise(100, 1), "/drop": noise(200, 2)}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(contents[r.URL.Path]) })
	source := func(name string) Source { return Source{URL: url + name, Checksum: sha512Of(contents[name])} }
	ensure := func(name string) Artifact {
		t.Helper()
		a, err := s.Ensure(t.Context(), source(name), nil)
		wantContent(t, a, err, contents[name])
		return a
	}
	keep, drop := ensure("/keep"), ensure("/drop")
	kept, dropped := double(t, s, keep, "double"), double(t, s, drop, "double")
	if digest, ok := s.Recorded(source("/drop")); !ok || digest != drop.Digest {
		t.Errorf("Recorded: got %s, %v; want %s", digest, ok, drop.Digest)
	}
	unused := slices.DeleteFunc(inventory(t, s), func(e Stored) bool { return e.Digest == keep.Digest || e.Digest == kept.Digest })
	removed, err := s.Remove(t.Context(), unused)
	if err != nil || removed.Files != 2 || removed.Bytes != unused[0].Bytes+unused[1].Bytes {
		t.Errorf("got %+v, %v; want the two files of %+v", removed, err, unused)
	}
	want := []string{keep.Digest, kept.Digest}
	slices.Sort(want)
	if diff := cmp.Diff(want, digestsOf(inventory(t, s))); diff != "" {
		t.Errorf("content that is left (-want +got):\n%s", diff)
	}
	for _, digest := range []string{drop.Digest, dropped.Digest} {
		if _, ok := s.Get(digest); ok {
			t.Errorf("%s was returned after its removal", digest)
		}
	}
	if digest, ok := s.Recorded(source("/drop")); ok {
		t.Errorf("Recorded: got %s after the removal, want nothing", digest)
	}
	if records := s.derivedRecords(); len(records) != 1 {
		t.Errorf("got records %v, want that of %s", records, kept.Digest)
	}
	ensure("/drop") // can be fetched again
	double(t, s, drop, "double")
}

func TestRemoveLeavesWhatWasUsedSince(t *testing.T) {
	s := newStore(t)
	content := noise(100, 1)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	src := Source{URL: url + "/a", Checksum: sha256Of(content)}
	a, err := s.Ensure(t.Context(), src, nil)
	wantContent(t, a, err, content)
	unused := inventory(t, s)
	a, err = s.Ensure(t.Context(), src, noWork(t))
	wantContent(t, a, err, content)
	if removed, err := s.Remove(t.Context(), unused); err != nil || removed.Files != 0 {
		t.Errorf("got %+v, %v; want nothing removed", removed, err)
	}
	a, err = s.Ensure(t.Context(), src, noWork(t))
	wantContent(t, a, err, content)
}

// A conversion reads its origin for minutes after it was last returned.
func TestRemoveLeavesOriginOfConversion(t *testing.T) {
	s := newStore(t)
	content := noise(100, 1)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	a, err := s.Ensure(t.Context(), Source{URL: url + "/a", Checksum: sha256Of(content)}, nil)
	wantContent(t, a, err, content)
	_, err = s.Derive(t.Context(), a, "slow", nil, func(_ context.Context, b *Build) (map[string]string, error) {
		if removed, err := s.Remove(t.Context(), inventory(t, s)); err != nil || removed.Files != 0 {
			t.Errorf("during the conversion: got %+v, %v; want nothing removed", removed, err)
		}
		return nil, os.WriteFile(b.Path, content[:50], 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := s.Remove(t.Context(), inventory(t, s)); err != nil || removed.Files != 2 {
		t.Errorf("after the conversion: got %+v, %v; want both removed", removed, err)
	}
}

// Content that is requested again while it is about to be removed is returned, and
// stays.
func TestRemoveDuringRequest(t *testing.T) {
	s := newStore(t)
	content := noise(5000, 1)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })
	src := Source{URL: url + "/a", Checksum: sha256Of(content)}
	kept, removed := 0, 0
	for range 50 {
		a, err := s.Ensure(t.Context(), src, nil)
		wantContent(t, a, err, content)
		unused := inventory(t, s)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if a, err := s.Ensure(t.Context(), src, nil); err != nil || a.Digest != src.Checksum {
					t.Errorf("got %+v, %v; want %s", a, err, src.Checksum)
				}
			})
		}
		all.Go(func() {
			done, err := s.Remove(t.Context(), unused)
			if err != nil {
				t.Error(err)
			}
			removed += done.Files
			kept += 1 - done.Files
		})
		all.Wait()
		if _, ok := s.Get(src.Checksum); !ok {
			t.Fatal("the content was returned and is missing")
		}
	}
	t.Logf("removed before the request %d times, left %d times", removed, kept)
}

func TestRemoveDropsForgottenDownloads(t *testing.T) {
	s := newStore(t)
	for name, age := range map[string]time.Duration{"old": stalePartial + time.Hour, "new": time.Hour} {
		path := s.path("partial", name)
		if err := os.WriteFile(path, []byte("part"), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Remove(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(s.path("partial"))
	if err != nil || len(left) != 1 || !strings.HasSuffix(left[0].Name(), "new") {
		t.Errorf("got %v, %v; want only the download that was resumed lately", left, err)
	}
}
