// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pxelab/pxelab/api/v1alpha1"
	"github.com/pxelab/pxelab/internal/bootconfig"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// checkedTarget returns a target of a namespace and its rendering's input.
func checkedTarget(namespace, name string) (*v1alpha1.BareMetalTarget, bootconfig.Input) {
	target := &v1alpha1.BareMetalTarget{}
	target.Namespace, target.Name, target.UID = namespace, name, types.UID(namespace+"-"+name)
	target.Spec.BootProfileRef.Name = "profile"
	return target, bootconfig.Input{Network: &netbootapi.Network{}, Machine: &netbootapi.Machine{UID: string(target.UID)}}
}

type timeoutError struct{ error }

func (timeoutError) Timeout() bool { return true }

func TestTemplateVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result, calls := error(nil), 0
		var woken []string
		c := newTemplateChecks(func(context.Context, bootconfig.Input) error {
			calls++
			return result
		}, func(uid string) { woken = append(woken, uid) })
		defer c.Close()
		target, in := checkedTarget("a", "t")
		check := func(want string, wantCalls int) {
			t.Helper()
			synctest.Wait()
			problem, checked := c.verdict(target, in)
			if !checked || problem != want || calls != wantCalls || len(woken) != calls {
				t.Fatalf("got verdict %q (checked: %v) after %d renderings that woke %v, want %q after %d", problem, checked, calls, woken, want, wantCalls)
			}
		}
		pending := func() {
			t.Helper()
			if problem, checked := c.verdict(target, in); checked {
				t.Fatalf("got verdict %q at once, want none", problem)
			}
		}
		pending()
		check("", 1)
		check("", 1)
		result, in.Texts.UserData = errors.New("bad"), "{{ .Bad }}"
		pending()
		check("bad", 2)
		time.Sleep(time.Hour)
		check("bad", 2)
		// A verdict that depends on the speed of the host is made again.
		result, in.Texts.UserData = timeoutError{errors.New("slow")}, "{{ .Slow }}"
		pending()
		check("slow", 3)
		result = nil
		time.Sleep(time.Minute)
		pending()
		check("", 4)
	})
}

func TestTemplateChecksAreFairBetweenNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int32
		c := newTemplateChecks(func(ctx context.Context, in bootconfig.Input) error {
			if in.Machine.UID == "b-quick" {
				return nil
			}
			<-ctx.Done()
			ended.Add(1)
			return ctx.Err()
		}, func(string) {})
		for i := range 4 {
			for _, profile := range []string{"p", "q"} {
				target, in := checkedTarget("a", fmt.Sprint(profile, i))
				target.Spec.BootProfileRef.Name = profile
				c.verdict(target, in)
				synctest.Wait() // they queue in this order
			}
		}
		target, in := checkedTarget("b", "quick")
		c.verdict(target, in)
		synctest.Wait()
		if _, checked := c.verdict(target, in); !checked {
			t.Error("slow templates of one namespace delay the verdict of another's target")
		}
		// A target that is gone frees its worker, and Close ends the others.
		first, _ := checkedTarget("a", "p0")
		c.forget(first.UID)
		synctest.Wait()
		if n := ended.Load(); n != 1 {
			t.Errorf("%d renderings ended with their target, want 1", n)
		}
		c.Close()
		if n := ended.Load(); n != 3 {
			t.Errorf("%d renderings had started, want 3", n)
		}
	})
}
