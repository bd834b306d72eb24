// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// cloud-init is Debian 13's, with data source NoCloud and a seed on an HTTP server.

const (
	cloudInitVersion = "25.1.4"
	cloudInitAgent   = "Cloud-Init/" + cloudInitVersion
	// seedTimeout is how long the server may take, seedTries how often a document is
	// requested, seedPause the time between (util.read_seeded).
	seedTimeout = 5 * time.Second
	seedTries   = 11
	seedPause   = time.Second
	// reportTimeout is that of the reporting handler. After maxLost events in a row
	// that found no server, a stage reports no more.
	reportTimeout = time.Second
	maxLost       = 3
	// phoneHomePause is the time between two attempts to phone home.
	phoneHomeTimeout = 30 * time.Second
	phoneHomePause   = 3 * time.Second
)

// stageNetwork is the stage in which the reporting handler is configured.
const stageNetwork = "init-network"

// Results of a module or stage.
const (
	resultSuccess = "SUCCESS"
	resultFail    = "FAIL"
)

// ciRun is one run of cloud-init.
type ciRun struct {
	*system
	instance *instance
	// lost counts the events in a row that found no server.
	lost int
}

// cloudInit runs cloud-init. It returns an error only if the system ends.
func (s *system) cloudInit(ctx context.Context) error {
	s.cloudInitLine("Cloud-init v. %s running 'init-local' at %s. Up %.2f seconds.",
		cloudInitVersion, s.g.config.Now().UTC().Format(time.RFC1123Z), s.g.uptime().Seconds())
	if s.record.Instance == nil {
		instance, err := s.fetchInstance(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.cloudInitLine("[WARNING]: Getting data from <class 'cloudinit.sources.DataSourceNoCloud.DataSourceNoCloudNet'> failed: %v", err)
			s.startSSH()
			return nil
		}
		s.record.Instance = instance
		s.save()
	}
	r := &ciRun{system: s, instance: s.record.Instance}
	for _, stage := range ciStages {
		if err := r.stage(ctx, stage); err != nil {
			return err
		}
		if stage.name == stageNetwork {
			s.startSSH()
		}
	}
	s.cloudInitLine("Cloud-init v. %s finished at %s. Datasource DataSourceNoCloudNet. Up %.2f seconds",
		cloudInitVersion, s.g.config.Now().UTC().Format(time.RFC1123Z), s.g.uptime().Seconds())
	return nil
}

// stage runs the modules of a stage and saves what they did: a boot that ends in a
// stage repeats it.
func (r *ciRun) stage(ctx context.Context, stage ciStage) error {
	r.lost = 0
	if stage.name == stageNetwork {
		// The stage began before the reporting handler was configured.
		event := ciEvent{name: stage.name + "/activate-datasource", description: "activating datasource", kind: "start"}
		r.report(ctx, event)
		event.kind, event.result = "finish", resultSuccess
		r.report(ctx, event)
	} else {
		r.report(ctx, ciEvent{name: stage.name, description: stage.description, kind: "start"})
	}
	result := resultSuccess
	for _, m := range stage.modules {
		if !r.applies(m) {
			continue
		}
		ok, err := r.module(ctx, stage.name, m)
		if err != nil {
			return err
		}
		if !ok {
			result = resultFail
		}
	}
	r.save()
	r.report(ctx, ciEvent{name: stage.name, description: stage.description, kind: "finish", result: result})
	if result == resultFail {
		r.g.serial.line("[FAILED] Failed to start cloud-final.service - Cloud-init: Final Stage.")
	}
	return ctx.Err()
}

func (r *ciRun) applies(m ciModule) bool {
	return len(m.keys) == 0 || slices.ContainsFunc(m.keys, func(key string) bool { return slices.Contains(r.instance.Keys, key) })
}

// module runs one module and reports whether it succeeded.
func (r *ciRun) module(ctx context.Context, stage string, m ciModule) (ok bool, err error) {
	event := ciEvent{
		name: stage + "/config-" + m.name, kind: "start",
		description: fmt.Sprintf("running config-%s with frequency %s", m.name, m.frequency),
	}
	r.report(ctx, event)
	event.kind, event.result = "finish", resultSuccess
	if m.frequency != always && slices.Contains(r.instance.Done, m.name) {
		event.description = fmt.Sprintf("config-%s previously ran", m.name)
		r.report(ctx, event)
		return true, ctx.Err()
	}
	ok = r.run(ctx, m)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if ok {
		event.description = fmt.Sprintf("config-%s ran successfully and took 0.001 seconds", m.name)
		if m.frequency != always {
			r.instance.Done = append(r.instance.Done, m.name)
		}
	} else {
		event.result = resultFail
		r.cloudInitLine("%s - util.py[WARNING]: Running module %s (<module 'cloudinit.config.cc_%s'>) failed",
			r.g.config.Now().UTC().Format("2006-01-02 15:04:05,000"), m.name, strings.ReplaceAll(m.name, "-", "_"))
	}
	r.report(ctx, event)
	return ok, ctx.Err()
}

// run does what a module does as far as the network sees it, and reports whether it
// succeeded.
func (r *ciRun) run(ctx context.Context, m ciModule) bool {
	switch m.name {
	case moduleSSH:
		return r.makeHostKeys() == nil
	case moduleScriptsUser:
		if r.g.faults[NoPhoneHome] {
			<-ctx.Done()
		}
		return !r.g.faults[CloudInitFail]
	case modulePhoneHome:
		r.phoneHome(ctx)
	}
	return true
}

func (r *ciRun) makeHostKeys() error {
	if len(r.record.HostKeys) > 0 {
		return nil
	}
	keys, err := newHostKeys(r.comment())
	if err != nil {
		return err
	}
	r.record.HostKeys = keys
	for name := range r.record.publicKeys(r.comment()) {
		r.cloudInitLine("Generating public/private %s key pair.", name)
	}
	return nil
}

// comment is the comment of host keys.
func (r *ciRun) comment() string { return "root@" + r.shortName() }

// shortName is the host name without its domain.
func (r *ciRun) shortName() string {
	name, _, _ := strings.Cut(r.instance.Hostname, ".")
	return name
}

// ciEvent is an event of the reporting handler.
type ciEvent struct{ name, description, kind, result string }

// body encodes the event as cloud-init does.
func (e ciEvent) body(at time.Time) []byte {
	quoted := func(s string) string {
		raw, err := json.Marshal(s)
		if err != nil {
			panic("encoding a string: " + err.Error())
		}
		return string(raw)
	}
	b := fmt.Sprintf(`{"name": %s, "description": %s, "event_type": %s, "origin": "cloudinit", "timestamp": %.6f`,
		quoted(e.name), quoted(e.description), quoted(e.kind), float64(at.UnixMicro())/1e6)
	if e.result != "" {
		b += `, "result": ` + quoted(e.result)
	}
	return []byte(b + "}")
}

// report posts an event to the reporting handler's endpoint, without a retry.
func (r *ciRun) report(ctx context.Context, e ciEvent) {
	if r.instance.Endpoint == "" || r.lost >= maxLost || ctx.Err() != nil {
		return
	}
	u, err := url.Parse(r.instance.Endpoint)
	if err != nil {
		return
	}
	if err := r.post(ctx, u, e.body(r.g.config.Now()), "", reportTimeout); err != nil {
		r.lost++
		return
	}
	r.lost = 0
}

// phoneHome posts the host keys until the server accepts them.
func (r *ciRun) phoneHome(ctx context.Context) {
	u, err := url.Parse(r.instance.PhoneHome.URL)
	if err != nil {
		return
	}
	tries := r.instance.PhoneHome.Tries
	if tries <= 0 {
		tries = 10
	}
	body := r.phoneHomeForm()
	for try := range tries {
		if try > 0 && pause(ctx, phoneHomePause) != nil {
			return
		}
		if err = r.post(ctx, u, body, "application/x-www-form-urlencoded", phoneHomeTimeout); err == nil {
			return
		}
	}
	r.cloudInitLine("[WARNING]: Failed to post phone home data to %s in %d tries", u.Redacted(), tries)
}

// phoneHomeForm encodes what phone_home posts, in the order of its configuration.
func (r *ciRun) phoneHomeForm() []byte {
	values := map[string]string{
		"instance_id": r.instance.ID, "hostname": r.shortName(), "fqdn": r.instance.Hostname,
	}
	for name, key := range r.record.publicKeys(r.comment()) {
		values["pub_key_"+name] = key
	}
	var form []string
	for _, name := range r.instance.PhoneHome.Post {
		value, ok := values[name]
		if !ok {
			value = "N/A"
		}
		form = append(form, url.QueryEscape(name)+"="+url.QueryEscape(value))
	}
	return []byte(strings.Join(form, "&"))
}
