// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parseFunctions names the functions that templates can call.
var parseFunctions = func() template.FuncMap {
	all := newMeter(context.Background()).functions()
	delete(all, passFunction)
	return all
}()

// functions returns the functions that extend and replace text/template's. Each
// charges m with its arguments before it works, and with its result, so that
// neither one call nor many small ones can take long: a straight line of
// assignments could otherwise double a variable without writing anything.
func (m *meter) functions() template.FuncMap {
	unary := func(f func(string) string) any {
		return func(s string) (string, error) {
			return m.produce(func() (string, error) { return f(s), nil }, s)
		}
	}
	variadic := func(f func(...any) string) any {
		return func(args ...any) (string, error) {
			return m.produce(func() (string, error) { return f(args...), nil }, args...)
		}
	}
	return template.FuncMap{
		passFunction: m.pass,
		"toJson": func(v any) (string, error) {
			return m.produce(func() (string, error) {
				raw, err := json.Marshal(v)
				return string(raw), err
			}, v)
		},
		"toYaml": func(v any) (string, error) {
			// The encoder is several times slower than any other function.
			if err := m.charge(0, 3*sizeOf(v)); err != nil {
				return "", err
			}
			return m.produce(func() (string, error) {
				raw, err := yaml.Marshal(v)
				return strings.TrimSuffix(string(raw), "\n"), err
			}, v)
		},
		"b64enc":  unary(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }),
		"indent":  func(n int, s string) (string, error) { return m.indent(n, s, "") },
		"nindent": func(n int, s string) (string, error) { return m.indent(n, s, "\n") },
		"quote": func(v any) (string, error) {
			return m.produce(func() (string, error) { return quote(fmt.Sprint(v)), nil }, v)
		},
		"default":  m.fallback,
		"join":     m.join,
		"trim":     unary(strings.TrimSpace),
		"lower":    unary(strings.ToLower),
		"upper":    unary(strings.ToUpper),
		"print":    variadic(fmt.Sprint),
		"println":  variadic(fmt.Sprintln),
		"printf":   m.printf,
		"html":     variadic(template.HTMLEscaper),
		"js":       variadic(template.JSEscaper),
		"urlquery": variadic(template.URLQueryEscaper),
	}
}

// produce calls f, whose result is at most a small multiple of args, and limits both.
func (m *meter) produce(f func() (string, error), args ...any) (string, error) {
	size := sizeOf(args)
	if err := m.charge(1, size); err != nil {
		return "", err
	}
	if size > 2*maxOutput {
		return "", errOutput
	}
	s, err := f()
	if err != nil {
		return "", err
	}
	if len(s) > maxOutput {
		return "", errOutput
	}
	return s, m.charge(0, len(s))
}

// valueSize is what a value counts besides the text in it.
const valueSize = 64

// sizeOf returns the approximate size of a value's text.
func sizeOf(v any) int {
	switch v := v.(type) {
	case nil:
		return valueSize
	case string:
		return valueSize + len(v)
	case []any:
		size := 0
		for _, each := range v {
			size += sizeOf(each)
		}
		return size
	}
	return sizeOfValue(reflect.ValueOf(v))
}

func sizeOfValue(v reflect.Value) int {
	size := valueSize
	switch v.Kind() {
	case reflect.String:
		size += v.Len()
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			size += sizeOfValue(v.Index(i))
		}
	case reflect.Map:
		for each := v.MapRange(); each.Next(); {
			size += sizeOfValue(each.Key()) + sizeOfValue(each.Value())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			size += sizeOfValue(v.Field(i))
		}
	case reflect.Interface, reflect.Pointer:
		if !v.IsNil() {
			size += sizeOfValue(v.Elem())
		}
	}
	return size
}

// quote returns a double-quoted string that is valid in YAML and JSON.
func quote(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic("a string always marshals: " + err.Error())
	}
	return string(raw)
}

func (m *meter) indent(n int, s, before string) (string, error) {
	lines := strings.Count(s, "\n") + 1
	if n < 0 || n > 1000 || len(s)+n*lines > maxOutput {
		return "", errOutput
	}
	return m.produce(func() (string, error) {
		pad := strings.Repeat(" ", n)
		return before + pad + strings.ReplaceAll(s, "\n", "\n"+pad), nil
	}, s)
}

func (m *meter) join(sep string, items []string) (string, error) {
	if len(items) > 0 && len(sep) > maxOutput/len(items) {
		return "", errOutput
	}
	return m.produce(func() (string, error) { return strings.Join(items, sep), nil }, sep, items)
}

// fallback returns value, or other if value is absent or a zero value.
func (m *meter) fallback(other any, value ...any) (any, error) {
	if len(value) == 0 || value[0] == nil || reflect.ValueOf(value[0]).IsZero() {
		return other, m.charge(1, 0)
	}
	return value[0], m.charge(1, 0)
}

// verbPattern matches a verb without its rune: flags, width, precision, argument.
var verbPattern = regexp.MustCompile(`^%[-+# 0]*(\d*)(?:\.(\d*))?(?:\[(\d+)\])?`)

// printf formats as [fmt.Sprintf] does, verb by verb, because a format can refer to
// one argument many times. It refuses "*" and widths of more than 4 digits.
func (m *meter) printf(format string, args ...any) (string, error) {
	if err := m.charge(1, len(format)); err != nil {
		return "", err
	}
	f := formatter{args: args}
	for {
		at := strings.IndexByte(format, '%')
		if at < 0 {
			break
		}
		f.out.WriteString(format[:at])
		format = format[at:]
		end := verbPattern.FindStringSubmatchIndex(format)
		if err := m.charge(1, 0); err != nil {
			return "", err
		}
		n, err := f.verb(m, format, end)
		if err != nil {
			return "", err
		}
		format = format[n:]
	}
	var extra []any // arguments that no verb refers to
	if !f.reordered {
		extra = args[f.next:]
	}
	rest, err := m.produce(func() (string, error) { return fmt.Sprintf(format, extra...), nil }, extra...)
	if err != nil {
		return "", err
	}
	f.out.WriteString(rest)
	if f.out.Len() > maxOutput {
		return "", errOutput
	}
	return f.out.String(), m.charge(0, f.out.Len())
}

// formatter is the state of one printf.
type formatter struct {
	out  strings.Builder
	args []any
	// next is the index of the next argument. Reordered means that a verb named
	// its argument, after which surplus ones are not an error.
	next      int
	reordered bool
}

// verb formats the verb at the start of format, of which places are the submatches
// of verbPattern, and returns the verb's length.
func (f *formatter) verb(m *meter, format string, places []int) (int, error) {
	sub := func(i int) string {
		if places[2*i] < 0 {
			return ""
		}
		return format[places[2*i]:places[2*i+1]]
	}
	head, width, precision := format[:places[1]], sub(1), sub(2)
	if len(width) > 4 || len(precision) > 4 {
		return 0, errWidth
	}
	if index := sub(3); index != "" {
		n, err := strconv.Atoi(index)
		if err != nil || n < 1 || n > len(f.args) || strings.IndexAny(format[places[1]:], ".0123456789") == 0 {
			return 0, fmt.Errorf("format %.20q does not refer to an argument", format)
		}
		f.reordered = true
		f.next = n - 1
		head = format[:places[6]] + "1]" // a flag after the index is a bad verb
	}
	r, size := utf8.DecodeRuneInString(format[places[1]:])
	whole := head + format[places[1]:places[1]+size]
	switch {
	case r == '*' || r == '[':
		return 0, errWidth
	case size == 0, r == '%', f.next >= len(f.args):
		return places[1] + size, f.add(fmt.Sprintf(whole, f.args[:0]...))
	}
	arg := f.args[f.next]
	f.next++
	w, _ := strconv.Atoi("0" + width)
	p, _ := strconv.Atoi("0" + precision)
	if _, text := arg.(string); !text && (w+p)*sizeOf(arg)/valueSize > maxOutput {
		return 0, errOutput // each element has the width
	}
	text, err := m.produce(func() (string, error) { return fmt.Sprintf(whole, arg), nil }, arg)
	if err != nil {
		return 0, err
	}
	return places[1] + size, f.add(text)
}

func (f *formatter) add(text string) error {
	if f.out.Len()+len(text) > maxOutput {
		return errOutput
	}
	f.out.WriteString(text)
	return nil
}
