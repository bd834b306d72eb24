// SPDX-License-Identifier: Apache-2.0

package session

import (
	"fmt"
	"maps"
	"slices"
	"time"
	"unique"

	"github.com/pxelab/pxelab/internal/netbootapi"
)

// digests identify the two parts of an entry. A server's config has only a content.
type digests struct{ content, control string }

// desired is the desired config of a server or entry of a machine, encoded, and where
// the content that it names is.
type desired struct {
	digests
	entry   netbootapi.Entry
	attempt string
	profile string
	blobs   []netbootapi.Blob // that the content names
	install bool              // the entry's Boot needs its files
	files   map[string]string
	// texts are shared: machines mostly have the same ones.
	texts map[string]unique.Handle[string]
}

func newDesired(d Desired) *desired {
	entry := netbootapi.NewEntry(d.Content, d.Control)
	next := &desired{
		digests: digests{entry.ContentDigest(), entry.ControlDigest()},
		entry:   entry,
		attempt: d.Control.Attempt,
		install: d.Control.Boot == netbootapi.BootInstall,
	}
	if d.Content != nil {
		next.profile = d.Content.ProfileDigest
		next.blobs = append(d.Content.Texts(), d.Content.Files()...)
	}
	return next
}

// supply sets where the content is, and reports whether that changed.
func (d *desired) supply(files, texts map[string]string) bool {
	same := maps.Equal(d.files, files) && len(d.texts) == len(texts)
	for digest := range texts {
		_, known := d.texts[digest]
		same = same && known
	}
	if same {
		return false
	}
	d.files = maps.Clone(files)
	d.texts = make(map[string]unique.Handle[string], len(texts))
	for digest, text := range texts {
		d.texts[digest] = unique.Make(text)
	}
	return true
}

// source is where the content of a blob is: a text, or the path of a file.
type source struct {
	path string
	text *unique.Handle[string]
}

func (d *desired) source(digest string) (source, bool) {
	if d == nil {
		return source{}, false
	}
	if text, ok := d.texts[digest]; ok {
		return source{text: &text}, true
	}
	path, ok := d.files[digest]
	return source{path: path}, ok
}

// item is what netbootd should have under one name, the config of the server or the
// entry of one machine, what it has, and the requests that make them equal. The lock of
// its server protects it.
type item struct {
	uid     string // "" for the server's config
	desired *desired
	// kept has the content that netbootd keeps while another one is desired, so that it
	// can be supplied again.
	kept *desired
	// deleting is set while netbootd should forget the machine.
	deleting bool

	shown    digests // that the last State reported
	state    *netbootapi.MachineState
	lost     []netbootapi.Blob // that the last State reported to be missing
	accepted *acceptance

	busy   bool // a request is in progress
	queued bool // a request is due
	// timer ends the pause after a failed request; nil if there is none.
	timer *time.Timer
	pause time.Duration
	err   error
	// refused is set if a repetition of the request fails as well.
	refused bool
	// uncertain is set after a request whose outcome is unknown.
	uncertain bool
	// waits is the content that the last request lacked, lacking how many requests in a
	// row lacked some.
	waits   []netbootapi.Blob
	lacking int

	arrived map[string]bool  // uploaded since the last State
	stock   map[string]bool  // uploaded while stocks is true
	needs   map[string]*want // by digest
	orphan  *time.Timer      // ends the grace of a machine that does not exist
}

// acceptance is what netbootd accepted and has not reported in a State since: older
// States may still be in transit. The zero digests are those of a deleted machine.
type acceptance struct {
	digests
	at time.Time
}

// anyContent is the digest of a content that netbootd has and that is not known here.
const anyContent = "any"

// have returns what netbootd has.
func (i *item) have() digests {
	if i.accepted != nil {
		return i.accepted.digests
	}
	return i.shown
}

// exists reports whether netbootd has or may have the machine.
func (i *item) exists() bool {
	if i.accepted != nil {
		return i.accepted.digests != digests{}
	}
	return i.state != nil || i.uncertain
}

// keeps reports whether netbootd keeps its content, whatever is put.
func (i *item) keeps() bool { return i.state != nil && i.state.Installing }

// stocks reports whether the desired content is uploaded although netbootd keeps another
// one, so that it is there when that is no longer kept: a disk is wiped only after that.
func (i *item) stocks() bool {
	d := i.desired
	return d != nil && d.content != "" && d.content != i.shown.content && i.keeps() && i.state.Attempt == d.attempt
}

// profile returns the profile of the desired content if netbootd serves that content, or
// keeps another one and has all that the desired one names; else "".
func (i *item) profile() string {
	d := i.desired
	switch {
	case d == nil || d.content == "":
		return ""
	case d.content == i.shown.content:
		return d.profile
	case !i.stocks() || slices.ContainsFunc(d.blobs, func(b netbootapi.Blob) bool { return !i.stock[b.Digest] }):
		return ""
	}
	return d.profile
}

// operation is a request for an item.
type operation int

const (
	opNone operation = iota
	opPut
	opPutControl // keeps the content
	opDelete
)

// due returns the request that makes what netbootd has what is desired.
func (i *item) due() operation {
	switch {
	case i.desired == nil && i.deleting && i.exists():
		return opDelete
	case i.desired == nil || i.matches(i.have()):
		return opNone
	case i.keeps() && i.shown.content != i.desired.content && i.state.Attempt == i.desired.attempt:
		// The control part must not wait for content that is not adopted anyway.
		return opPutControl
	}
	return opPut
}

// matches reports whether has is what is desired, or all of it that can be now.
func (i *item) matches(has digests) bool {
	switch d := i.desired; {
	case has.control != d.control:
		return false
	case has.content == d.content:
		return true
	case has.content == "":
		return false
	default:
		return d.content == "" || i.keeps()
	}
}

// inForce reports whether the last State shows what is desired.
func (i *item) inForce() bool {
	if i.desired == nil || !i.matches(i.shown) {
		return false
	}
	return (i.accepted == nil || i.matches(i.accepted.digests)) && (i.state == nil || i.state.Problem == "")
}

// settle drops an acceptance that the State shows or, at last, should have shown.
func (i *item) settle(now time.Time) {
	a := i.accepted
	if a == nil {
		return
	}
	shows := i.shown.control == a.control && (i.shown.content == a.content || a.content == anyContent || i.keeps())
	if shows || now.Sub(a.at) > shownWithin {
		i.accepted = nil
	}
}

// source returns where the content of a blob is.
func (i *item) source(digest string) (source, bool) {
	if found, ok := i.desired.source(digest); ok {
		return found, true
	}
	return i.kept.source(digest)
}

// maxNeeds is how many blobs an item may need: a content names eight, and netbootd may
// keep another content.
const maxNeeds = 16

// missing returns the blobs that netbootd lacks, each once. What netbootd reports may be
// hostile.
func (i *item) missing() []netbootapi.Blob {
	if i.desired == nil || len(i.waits)+len(i.lost) == 0 && !i.stocks() {
		return nil
	}
	missing := slices.Clone(i.waits)
	for _, b := range i.lost {
		if len(missing) == maxNeeds {
			break
		}
		_, available := i.source(b.Digest)
		switch {
		case i.arrived[b.Digest] || !validBlob(b) || slices.Contains(missing, b):
		case available || i.uid == "" || i.desired.install || b.IsText():
			missing = append(missing, b)
		}
	}
	if i.stocks() {
		for _, b := range i.desired.blobs {
			_, available := i.source(b.Digest)
			if available && !i.stock[b.Digest] && len(missing) < maxNeeds && !slices.Contains(missing, b) {
				missing = append(missing, b)
			}
		}
	}
	return missing
}

func validBlob(b netbootapi.Blob) bool {
	return b.Size > 0 && (netbootapi.ValidDigest(b.Digest) || netbootapi.ValidTextDigest(b.Digest))
}

// arrive records that netbootd has a blob.
func (i *item) arrive(digest string) {
	delete(i.needs, digest)
	i.waits = slices.DeleteFunc(i.waits, func(b netbootapi.Blob) bool { return b.Digest == digest })
	if i.arrived == nil {
		i.arrived = map[string]bool{}
	}
	i.arrived[digest] = true
	if i.stocks() {
		if i.stock == nil {
			i.stock = map[string]bool{}
		}
		i.stock[digest] = true
	}
	if len(i.waits) == 0 && i.lacking <= maxLacking {
		i.stop()
	}
}

// absent reports whether a blob that the item needs is not available here.
func (i *item) absent(b netbootapi.Blob) bool {
	w := i.needs[b.Digest]
	if w == nil {
		return false
	}
	_, ok := w.source()
	return !ok
}

// reset forgets how the last requests ended.
func (i *item) reset() {
	i.resume()
	i.err = nil
	i.refused = false
	i.waits = nil
}

// resume ends the pause.
func (i *item) resume() {
	i.stop()
	i.pause = 0
	i.lacking = 0
}

func (i *item) stop() {
	if i.timer != nil {
		i.timer.Stop()
		i.timer = nil
	}
}

// problem returns why netbootd does not have what is desired.
func (i *item) problem() error {
	if i.err != nil {
		return i.err
	}
	for _, digest := range slices.Sorted(maps.Keys(i.needs)) {
		if i.absent(i.needs[digest].blob) {
			return fmt.Errorf("content %s is not available here", digest)
		}
	}
	return nil
}
