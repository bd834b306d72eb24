// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"text/template"
	"time"
)

// unhurried returns a meter whose clock does not end a rendering.
func unhurried(ctx context.Context) *meter {
	m := newMeter(ctx)
	m.deadline = time.Now().Add(24 * time.Hour)
	return m
}

// checkSpent fails if a rendering did more than its limits allow.
func checkSpent(t *testing.T, m *meter) {
	t.Helper()
	if m.steps > maxSteps {
		t.Errorf("the rendering took %d steps, want at most %d", m.steps, maxSteps)
	}
	if m.processed > maxProcessed {
		t.Errorf("functions processed %d bytes, want at most %d", m.processed, maxProcessed)
	}
	if m.out.Len() > maxOutput {
		t.Errorf("the result has %d bytes, want at most %d", m.out.Len(), maxOutput)
	}
}

// assign is straight-line code: it defines $x and $y as different strings of 320 KiB.
var assign = `{{ $x := "a: b\n" }}{{ $y := "a: c\n" }}` + strings.Repeat(`{{ $x = print $x $x }}{{ $y = print $y $y }}`, 16)

func TestRenderTemplateEndsAtLimit(t *testing.T) {
	for name, c := range map[string]struct {
		template string
		limit    *LimitError
	}{
		"straight line of functions":    {assign + strings.Repeat(`{{ $y = toYaml $x }}`, 700), errProcessed},
		"straight line of doubling":     {`{{ $x := "xxxxxxxx" }}` + strings.Repeat(`{{ $x = print $x $x }}`, 100), errOutput},
		"straight line of output":       {assign + strings.Repeat(`{{ $x }}`, 100), errOutput},
		"straight line of new strings":  {assign + strings.Repeat(`{{ $z := upper $x }}`, 1000), errProcessed},
		"straight line of comparisons":  {assign + strings.Repeat(`{{ $z := eq $x $y }}`, 1000), errProcessed},
		"straight line of trimming":     {assign + strings.Repeat(`{{ $z := trim $x }}`, 1000), errProcessed},
		"many arguments":                {assign + `{{ print` + strings.Repeat(" $x", 1000) + ` }}`, errProcessed},
		"many compared arguments":       {assign + `{{ eq $y` + strings.Repeat(" $x", 1000) + ` }}`, errProcessed},
		"many constants":                {`{{ and` + strings.Repeat(" 1", 100_000) + ` }}`, errTerms},
		"long pipeline":                 {`{{ "x"` + strings.Repeat(" | print", 10_000) + ` }}`, errTerms},
		"nested parentheses":            {`{{ ` + strings.Repeat("(not ", 5000) + "true" + strings.Repeat(")", 5000) + ` }}`, errTerms},
		"loop without body":             {`{{ range 1000000000 }}{{ end }}`, errSteps},
		"loop with text":                {`{{ range 1000000000 }}` + strings.Repeat("x", 100) + `{{ end }}`, errOutput},
		"loop that continues":           {`{{ range 1000000000 }}{{ continue }}{{ end }}`, errSteps},
		"loop of conditions":            {`{{ range 1000000000 }}{{ if or . true }}{{ else }}{{ end }}{{ end }}`, errSteps},
		"loop of assignments":           {`{{ $x := 0 }}{{ range $i := 1000000000 }}{{ $x = $i }}{{ end }}`, errSteps},
		"nested loops":                  {`{{ range 10000 }}{{ range 10000 }}{{ range 10000 }}{{ end }}{{ end }}{{ end }}`, errSteps},
		"nested loops over a map":       {`{{ range .Parameters }}{{ range $.Parameters }}{{ range $.Parameters }}{{ end }}{{ end }}{{ end }}`, errSteps},
		"recursion":                     {`{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`, errSteps},
		"mutual recursion":              {`{{ define "a" }}{{ template "b" }}{{ end }}{{ define "b" }}{{ template "a" }}{{ end }}{{ template "a" }}`, errSteps},
		"recursion in a branch":         {`{{ block "a" 1 }}{{ with . }}{{ template "a" . }}{{ end }}{{ end }}`, errSteps},
		"exponential calls":             {exponential(40), errSteps},
		"doubling by printf":            {`{{ $x := "xxxxxxxx" }}{{ range 100 }}{{ $x = printf "%s%s" $x $x }}{{ end }}`, errOutput},
		"doubling by html":              {`{{ $x := "<<<<<<<<" }}{{ range 100 }}{{ $x = html $x $x }}{{ end }}`, errOutput},
		"doubling by js":                {`{{ $x := "<<<<<<<<" }}{{ range 100 }}{{ $x = js $x }}{{ end }}`, errOutput},
		"doubling by urlquery":          {`{{ $x := "<<<<<<<<" }}{{ range 100 }}{{ $x = urlquery $x $x }}{{ end }}`, errOutput},
		"doubling by a nested pipeline": {`{{ $x := "<<<<<<<<" }}{{ range 100 }}{{ $x = (print $x (print $x ($x | toJson))) | b64enc }}{{ end }}`, errOutput},
		"one argument many times":       {assign + `{{ printf "` + strings.Repeat("%[1]s", 10_000) + `" $x }}`, errOutput},
		"one number many times":         {`{{ printf "` + strings.Repeat("%9999[1]d", 10_000) + `" 1 }}`, errOutput},
		"width":                         {`{{ printf "%999999999d" 1 }}`, errWidth},
		"precision":                     {`{{ printf "%.999999999f" 1.0 }}`, errWidth},
		"width by star":                 {`{{ printf "%*d" 999999999 1 }}`, errWidth},
		"precision by star":             {`{{ printf "%.*f" 999999999 1.0 }}`, errWidth},
		"width of each element":         {`{{ printf "%9999v" .Parameters }}`, errOutput},
		"indent":                        {`{{ indent 1000000000 "x" }}`, errOutput},
		"indent of many lines":          {assign + `{{ indent 1000 $x }}`, errOutput},
		"join":                          {assign + `{{ join $x .SSHAuthorizedKeys }}`, errOutput},
		"loop of lookups":               {assign + `{{ range 1000000 }}{{ $z := index $.Parameters $x }}{{ end }}`, errProcessed},
		"loop of comparisons":           {assign + `{{ range 1000000 }}{{ if $x | lt $y }}{{ end }}{{ end }}`, errProcessed},
		"loop of everything":            {`{{ range 1000000 }}{{ $z := toJson $ }}{{ end }}`, errProcessed},
		"loop of slices":                {assign + `{{ range 1000000000 }}{{ $z := slice $x 1 10 | len }}{{ end }}`, errSteps},
		"loop of printing":              {`{{ range 1000000 }}{{ $ }}{{ end }}`, errOutput},
	} {
		t.Run(name, func(t *testing.T) {
			v := values()
			for i := range 300 {
				v.Parameters[fmt.Sprintf("parameter-%d", i)] = "x"
			}
			v.SSHAuthorizedKeys = make([]string, 64)
			m := unhurried(t.Context())
			out, err := render(m, "user-data", "\n\n"+c.template, v)
			var limit *LimitError
			if !errors.As(err, &limit) || limit != c.limit {
				t.Fatalf("got %d bytes and error %.300v, want %v", len(out), err, c.limit)
			}
			want := "user-data template, line 3: " + c.limit.Error()
			if err.Error() != want || !errors.Is(err, limit.Kind) || limit.Timeout() {
				t.Errorf("got error %q, want %q", err, want)
			}
			checkSpent(t, m)
		})
	}
}

// exponential returns templates of which each calls the previous one twice.
func exponential(depth int) string {
	var out strings.Builder
	out.WriteString(`{{ define "t0" }}{{ end }}`)
	for i := range depth {
		fmt.Fprintf(&out, `{{ define "t%d" }}{{ template "t%d" }}{{ template "t%d" }}{{ end }}`, i+1, i, i)
	}
	return out.String() + fmt.Sprintf(`{{ template "t%d" }}`, depth)
}

func TestRenderTemplateReportsLineOfLimit(t *testing.T) {
	_, err := RenderTemplate(t.Context(), "ipxe", "{{ define \"a\" }}\n{{ end }}#!ipxe\n{{ template \"a\" }}\n{{ range 9 }}\n"+
		"{{ range 1000000000 }}{{ end }}\n{{ end }}", nil)
	var got *TemplateError
	if !errors.As(err, &got) || got.Line != 5 {
		t.Errorf("got error %v, want one in line 5", err)
	}
}

// A template of the largest size that does nothing unusual is not refused.
func TestRenderTemplateAcceptsLargeTemplate(t *testing.T) {
	const line = `- {{ printf "%-20s" .Name | quote }}` + "\n"
	text := "#cloud-config\nlist:\n" + strings.Repeat(line, (maxTemplate-30)/len(line))
	m := unhurried(t.Context())
	out, err := render(m, "user-data", text, values())
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Count(text, "\n"); strings.Count(out, "\n") != want {
		t.Errorf("got %d lines, want %d", strings.Count(out, "\n"), want)
	}
	if m.steps > maxSteps/4 || m.processed > maxProcessed/4 {
		t.Errorf("the rendering took %d steps and %d bytes, want at most a quarter of the limits", m.steps, m.processed)
	}
}

// cancelledAfter is a context that is cancelled once it was asked a number of times.
type cancelledAfter struct {
	context.Context
	asked, limit int
}

func (c *cancelledAfter) Err() error {
	if c.asked++; c.asked > c.limit {
		return context.Canceled
	}
	return nil
}

func TestRenderTemplateEndsWithContext(t *testing.T) {
	for name, text := range map[string]string{
		"loop":          `{{ range 1000000000 }}{{ end }}`,
		"straight line": strings.Repeat(`{{ $x := 1 }}`, 10_000),
		"text":          strings.Repeat("x{{/* */}}", 10_000),
		"functions":     strings.Repeat(`{{ $x := print 1 }}`, 10_000),
		"comparisons":   strings.Repeat(`{{ $x := eq $.Name $.Domain }}`, 5_000),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := &cancelledAfter{Context: t.Context(), limit: 100}
			m := unhurried(ctx)
			_, err := render(m, "user-data", text, values())
			var bad *TemplateError
			if !errors.Is(err, context.Canceled) || !errors.As(err, &bad) || bad.Line != 1 {
				t.Errorf("got error %v, want a *TemplateError with context.Canceled and line 1", err)
			}
			if ctx.asked != ctx.limit+1 || m.steps > 101*bodySteps {
				t.Errorf("the rendering took %d steps and asked the context %d times, want %d", m.steps, ctx.asked, ctx.limit+1)
			}
		})
	}
}

func TestRenderTemplateEndsAtDeadline(t *testing.T) {
	m := newMeter(t.Context())
	m.deadline = time.Now().Add(-time.Second)
	_, err := render(m, "user-data", "x", nil)
	var limit *LimitError
	if !errors.As(err, &limit) || !limit.Timeout() || !strings.Contains(err.Error(), "line 1: the template takes too long to execute: the limit is 5s") {
		t.Errorf("got error %v, want the limit of time in line 1", err)
	}
	if m.steps != 0 {
		t.Errorf("the rendering took %d steps, want none", m.steps)
	}
}

// The bytes of a character can be taken apart.
func TestRenderTemplateRefusesInvalidUTF8(t *testing.T) {
	for name, text := range map[string]string{
		"part of a character": "a\n\ufffd{{ slice \"é\" 0 1 }}\n",
		"escape":              "a\n{{ \"\\xe9\" }}\n",
		"text":                "a\n\xe9\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := RenderTemplate(t.Context(), "user-data", text, nil)
			var bad *TemplateError
			if !errors.As(err, &bad) || bad.Line != 2 || !strings.Contains(err.Error(), "not valid UTF-8") {
				t.Errorf("got error %v, want invalid UTF-8 in line 2", err)
			}
		})
	}
}

// Metering does not change what text/template's own functions return.
func TestRenderTemplateKeepsBuiltins(t *testing.T) {
	own := newMeter(t.Context()).functions()
	for _, name := range []string{"print", "println", "printf", "html", "js", "urlquery"} {
		delete(own, name)
	}
	for _, text := range []string{
		`{{ eq .Name "target-1" }}`, `{{ "x" | eq "x" "y" }}`, `{{ eq (index .DNS 0) "10.0.2.3" }}`, `{{ index .Parameters "role" | eq "web" }}`,
		`{{ index .DNS 0 }}{{ index (slice .DNS 0 1) 0 }}`, `{{ index .Parameters "none" | default "x" | ne "x" }}`, `{{ .Name | len | eq 8 }}`,
		`{{ if lt .MTU 1500 }}a{{ else if gt .MTU 8999 }}b{{ end }}`, `{{ eq 1 1.0 }}`, `{{ eq .Name 1 }}`, `{{ eq nil .DNS }}`, `{{ eq .DNS .DNS }}`,
		`{{ index .Parameters }}`, `{{ index .DNS 5 }}`, `{{ index nil 1 }}`, `{{ eq }}`, `{{ eq . }}`, `{{ le "a" "b" }}{{ ge 1 2 }}`, `{{ eq (not true) false }}`,
		`{{ range .DNS }}{{ eq . "10.0.2.3" }}{{ end }}`, `{{ with $x := .Name }}{{ eq $x $.Name }}{{ end }}`, `{{ .Parameters.none | eq "x" }}`,
		`{{ print 1 2 "a" }}{{ println .DNS }}`, `{{ html "<" .Name }}{{ js "'" }}{{ urlquery "&" 1 }}`, `{{ printf "%5d|%-5s|%05.1f|%v|%q" 1 "a" 1.5 .DNS .Name }}`,
		`{{ printf "%[2]s %[1]d" 1 "x" }}`, `{{ printf "%d %s" "x" }}`, `{{ printf "%s" "a" "b" }}`, `{{ printf "100%% %" }}`, `{{ and 1 0 (index .DNS 7) }}`,
	} {
		var want strings.Builder
		plain, err := template.New("x").Option("missingkey=error").Funcs(own).Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		wantErr := plain.Execute(&want, values())
		got, err := RenderTemplate(t.Context(), "x", text, values())
		if (err == nil) != (wantErr == nil) || err == nil && got != want.String() {
			t.Errorf("%s: got %q and error %v, want %q and %v", text, got, err, want.String(), wantErr)
		}
	}
}

// oddVerb matches verbs that printf refuses, or of which only the error differs.
var oddVerb = regexp.MustCompile(`%[-+# 0]*\d*(\.\d*)?(\*|\[\d*($|[^\d\]])|\[\]|\[\d+\][.\d\[*])|%[-+# 0]*\d*\.$`)

// FuzzPrintf compares printf with that of package fmt.
func FuzzPrintf(f *testing.F) {
	for _, seed := range []string{"%d %s", "%[2]s %[1]d", "%5.2f|%-9q|%+v", "100%%", "%", "%!", "%[1]s%[1]s", "%é%\xff", "%[3]d", "%.[1]f", "% x%#v", "%5%%s", "%[1] "} {
		f.Add(seed, "text", 7)
	}
	f.Fuzz(func(t *testing.T, format, s string, n int) {
		args := []any{s, n, 1.5}
		got, err := newMeter(t.Context()).printf(format, args...)
		if err != nil || oddVerb.MatchString(format) {
			return
		}
		if want := fmt.Sprintf(format, args...); got != want {
			t.Errorf("printf %q: got %q, want %q", format, got, want)
		}
	})
}

// FuzzRenderTemplate looks for templates that exceed the limits of a rendering. A
// watchdog ends the test if one does not return.
func FuzzRenderTemplate(f *testing.F) {
	for _, seed := range []string{
		`{{ $x := "xxxxxxxx" }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}`, exponential(3), userTemplate,
		`{{ range $k, $v := .Parameters }}{{ printf "%9999[1]s%[1]q" $v }}{{ end }}`, `{{ block "a" 1 }}{{ with . }}{{ template "a" . }}{{ end }}{{ end }}`,
		`{{ range 9 }}{{ break }}{{ else }}{{ continue }}{{ end }}`, `{{ eq (index .DNS 0) (slice .Name 1 2) | and | or 1 | not }}`,
		`{{ toYaml . | nindent 900 | b64enc | html | js | urlquery | quote | toJson }}`, `{{ join .Name .DNS | upper | trim | default .MTU }}`,
		`{{ call .SeedURL }}{{ len . }}{{ println $ }}`, `{{ range "abc" }}{{ . }}{{ end }}{{ range 3.5 }}{{ end }}`, `{{- /* */ -}}{{ define "x" }}{{ end }}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		watchdog := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("the template does not end: %q", text)) })
		defer watchdog.Stop()
		m := unhurried(t.Context())
		out, err := render(m, "user-data", text, values())
		checkSpent(t, m)
		var bad *TemplateError
		if err != nil && !errors.As(err, &bad) {
			t.Errorf("got error of type %T, want a *TemplateError: %v", err, err)
		}
		if err == nil {
			_ = CheckUserData(out)
			_ = withAccount(out, values())
			_, _ = networkConfigText(out)
		}
	})
}
