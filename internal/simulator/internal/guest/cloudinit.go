// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
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

// frequency is how often a module runs.
type frequency string

const (
	always      frequency = "always"
	perInstance frequency = "once-per-instance"
	once        frequency = "once"
)

// ciModule is one of cloud-init's modules. A module with keys runs only if the
// configuration has one of them.
type ciModule struct {
	name string
	frequency
	keys []string
}

// ciStage is a stage after the data source was found.
type ciStage struct {
	name, description string
	modules           []ciModule
}

// Modules with an effect on what a machine sends.
const (
	moduleSSH         = "ssh"
	moduleScriptsUser = "scripts-user"
	modulePhoneHome   = "phone-home"
)

// ciStages are the stages and modules of Debian's /etc/cloud/cloud.cfg. A module that
// always runs reports even if it has nothing to do.
var ciStages = []ciStage{
	{stageNetwork, "searching for network datasources", []ciModule{
		{"seed_random", perInstance, nil},
		{"bootcmd", always, []string{"bootcmd"}},
		{"write-files", perInstance, []string{"write_files"}},
		{"growpart", always, nil},
		{"resizefs", always, nil},
		{"disk_setup", perInstance, []string{"disk_setup", "fs_setup"}},
		{"mounts", perInstance, nil},
		{"set_hostname", perInstance, nil},
		{"update_hostname", always, nil},
		{"update_etc_hosts", always, []string{"manage_etc_hosts"}},
		{"ca-certs", perInstance, []string{"ca_certs", "ca-certs"}},
		{"rsyslog", perInstance, []string{"rsyslog"}},
		{"users-groups", perInstance, nil},
		{moduleSSH, perInstance, nil},
	}},
	{"modules-config", "running modules for config", []ciModule{
		{"snap", perInstance, []string{"snap"}},
		{"ssh-import-id", perInstance, nil},
		{"keyboard", perInstance, []string{"keyboard"}},
		{"locale", perInstance, nil},
		{"set-passwords", perInstance, nil},
		{"grub-dpkg", perInstance, []string{"grub_dpkg", "grub-dpkg"}},
		{"apt-pipelining", perInstance, []string{"apt_pipelining"}},
		{"apt-configure", perInstance, nil},
		{"ntp", perInstance, []string{"ntp"}},
		{"timezone", perInstance, []string{"timezone"}},
		{"disable-ec2-metadata", always, []string{"disable_ec2_metadata"}},
		{"runcmd", perInstance, []string{"runcmd"}},
		{"byobu", perInstance, nil},
	}},
	{"modules-final", "running modules for final", []ciModule{
		{"package-update-upgrade-install", perInstance, []string{
			"apt_update", "package_update", "apt_upgrade", "package_upgrade", "packages",
		}},
		{"fan", perInstance, []string{"fan"}},
		{"landscape", perInstance, []string{"landscape"}},
		{"lxd", perInstance, []string{"lxd"}},
		{"write-files-deferred", perInstance, []string{"write_files"}},
		{"puppet", perInstance, []string{"puppet"}},
		{"chef", always, []string{"chef"}},
		{"mcollective", perInstance, []string{"mcollective"}},
		{"salt-minion", perInstance, []string{"salt_minion"}},
		{"reset_rmc", perInstance, nil},
		{"scripts-vendor", perInstance, nil},
		{"scripts-per-once", once, nil},
		{"scripts-per-boot", always, nil},
		{"scripts-per-instance", perInstance, nil},
		{moduleScriptsUser, perInstance, nil},
		{"ssh-authkey-fingerprints", perInstance, nil},
		{"keys-to-console", perInstance, nil},
		{"install-hotplug", perInstance, nil},
		{modulePhoneHome, perInstance, []string{"phone_home"}},
		{"final-message", always, nil},
		{"power-state-change", perInstance, []string{"power_state"}},
	}},
}

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

// requestHead returns a request as Python's requests sends it.
func requestHead(method string, u *url.URL, lines ...string) string {
	head := []string{
		method + " " + u.RequestURI() + " HTTP/1.1", "Host: " + u.Host, "User-Agent: " + cloudInitAgent,
		"Accept-Encoding: gzip, deflate", "Accept: */*", "Connection: keep-alive",
	}
	return strings.Join(append(head, lines...), "\r\n")
}

// httpStatusError is a response other than success.
type httpStatusError struct{ status string }

func (e *httpStatusError) Error() string { return "the server answered " + e.status }

func (s *system) post(ctx context.Context, u *url.URL, body []byte, kind string, timeout time.Duration) error {
	lines := []string{fmt.Sprintf("Content-Length: %d", len(body))}
	if kind != "" {
		lines = append(lines, "Content-Type: "+kind)
	}
	_, err := s.request(ctx, httpRequest{
		method: http.MethodPost, url: u, head: requestHead(http.MethodPost, u, lines...), body: body, stall: timeout,
	})
	return err
}

// request sends one request over a separate connection, as cloud-init does.
func (s *system) request(ctx context.Context, r httpRequest) (string, error) {
	if s.network == nil {
		return "", errNoNetwork
	}
	dialCtx, cancel := context.WithTimeout(ctx, r.stall)
	defer cancel()
	c := httpClient{dial: s.network.dial}
	defer c.close()
	resp, err := c.do(dialCtx, r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	if err != nil {
		return "", err
	}
	if resp.StatusCode/100 != 2 {
		return "", &httpStatusError{resp.Status}
	}
	return string(text), nil
}

// fetchInstance fetches the documents of the seed.
func (s *system) fetchInstance(ctx context.Context) (*instance, error) {
	if s.network == nil {
		return nil, errNoNetwork
	}
	var d seed
	for _, document := range []struct {
		name     string
		text     *string
		optional bool
	}{
		{"network-config", new(string), true},
		{"meta-data", &d.metaData, false},
		{"user-data", &d.userData, false},
		{"vendor-data", &d.vendorData, true},
	} {
		text, err := s.fetchDocument(ctx, document.name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && !document.optional {
			return nil, err
		}
		*document.text = text
	}
	return d.parse()
}

func (s *system) fetchDocument(ctx context.Context, name string) (string, error) {
	u, err := url.Parse(s.record.SeedURL + name)
	if err != nil {
		return "", err
	}
	var text string
	for try := range seedTries {
		if try > 0 {
			if err := pause(ctx, seedPause); err != nil {
				return "", err
			}
		}
		text, err = s.request(ctx, httpRequest{
			method: http.MethodGet, url: u, head: requestHead(http.MethodGet, u), stall: seedTimeout,
		})
		if err == nil {
			return text, nil
		}
	}
	return "", fmt.Errorf("fetching %s: %w", name, err)
}
