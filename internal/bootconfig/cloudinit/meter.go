// SPDX-License-Identifier: Apache-2.0

package cloudinit

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"
	"time"
)

// Limits of one rendering. The limits of steps and bytes alone keep a rendering far
// below maxTime on any host that is not overloaded, so that netbootd in an emulated
// VM renders what the manager has accepted.
const (
	maxOutput    = 1 << 20  // bytes of the result, and of each value
	maxProcessed = 16 << 20 // bytes read and returned by functions
	maxSteps     = 1_000_000
	maxTime      = 5 * time.Second

	// bodySteps is the cost of a loop iteration and of a template call. Recursion
	// therefore ends before it needs much stack.
	bodySteps = 50
	// maxTerms limits one action: text/template does not call anything of this
	// package while it evaluates constants, variables, and, or and not.
	maxTerms = 2000
)

// ErrTooLarge and ErrTooLong are the kinds of LimitError.
var (
	ErrTooLarge = errors.New("the result is too large")
	ErrTooLong  = errors.New("the template takes too long to execute")
)

// LimitError reports a rendering that exceeds one of its limits.
type LimitError struct {
	// Kind is ErrTooLarge or ErrTooLong.
	Kind error
	// Limit is the limit with its unit.
	Limit   string
	timeout bool
}

func (e *LimitError) Error() string { return fmt.Sprintf("%v: the limit is %s", e.Kind, e.Limit) }

func (e *LimitError) Unwrap() error { return e.Kind }

// Timeout reports whether the limit depends on the speed of the host, so that
// another attempt may succeed.
func (e *LimitError) Timeout() bool { return e.timeout }

var (
	errOutput    = &LimitError{Kind: ErrTooLarge, Limit: fmt.Sprintf("%d bytes", maxOutput)}
	errWidth     = &LimitError{Kind: ErrTooLarge, Limit: "a width and precision of 4 digits"}
	errProcessed = &LimitError{Kind: ErrTooLong, Limit: fmt.Sprintf("%d bytes read and returned by functions", maxProcessed)}
	errSteps     = &LimitError{Kind: ErrTooLong, Limit: fmt.Sprintf("%d steps", maxSteps)}
	errTime      = &LimitError{Kind: ErrTooLong, Limit: maxTime.String(), timeout: true}
	errTerms     = &LimitError{Kind: ErrTooLong, Limit: fmt.Sprintf("%d terms in one action", maxTerms)}
)

// meter limits one rendering. It is the writer and provides the functions of the
// rendering; each of them charges the meter before it does any work.
type meter struct {
	ctx      context.Context
	deadline time.Time
	ticks    map[*byte]tick
	out      strings.Builder
	// line is that of the action in execution.
	line             int
	steps, processed int
}

// sampleMeter limits a rendering whose result only serves a check, so that it can run in
// the way of other work.
func sampleMeter(ctx context.Context) *meter {
	m := newMeter(ctx)
	m.steps = maxSteps - 20_000
	m.processed = maxProcessed - 1<<20
	return m
}

func newMeter(ctx context.Context) *meter {
	return &meter{ctx: ctx, deadline: time.Now().Add(maxTime)}
}

// charge adds the steps and bytes of work that is due. If a limit does not allow it
// or the context is cancelled, it returns the error that ends the rendering.
func (m *meter) charge(steps, processed int) error {
	switch {
	case steps > maxSteps-m.steps:
		return errSteps
	case processed > maxProcessed-m.processed:
		return errProcessed
	case time.Now().After(m.deadline):
		return errTime
	}
	m.steps += steps
	m.processed += processed
	return m.ctx.Err()
}

// Write implements io.Writer for text/template. A tick charges its steps and writes
// nothing.
func (m *meter) Write(p []byte) (int, error) {
	if len(p) == 1 {
		if t, ok := m.ticks[&p[0]]; ok {
			m.line = t.line
			return len(p), m.charge(t.steps, 0)
		}
	}
	if err := m.charge(1, 0); err != nil {
		return 0, err
	}
	if m.out.Len()+len(p) > maxOutput {
		return 0, errOutput
	}
	return m.out.Write(p)
}

// tick is the cost of the node that follows it. In the tree it is a text of one
// byte, which the writer recognizes by its address.
type tick struct{ line, steps int }

// instrumenter inserts ticks into the trees of a template.
type instrumenter struct {
	ticks map[*byte]tick
	// ends has the positions of the line ends.
	ends []int
}

func newInstrumenter(text string) *instrumenter {
	i := &instrumenter{ticks: map[*byte]tick{}}
	for at, c := range []byte(text) {
		if c == '\n' {
			i.ends = append(i.ends, at)
		}
	}
	return i
}

func (i *instrumenter) lineOf(n parse.Node) int {
	line, _ := slices.BinarySearch(i.ends, int(n.Position()))
	return 1 + line
}

// list inserts a tick at the start of l, which costs steps, and before each node.
// For an action with too many terms it returns the action's line and an error.
func (i *instrumenter) list(l *parse.ListNode, steps int) (line int, err error) {
	if l == nil {
		return 0, nil
	}
	nodes := []parse.Node{i.tick(l, steps)}
	for _, n := range l.Nodes {
		pipe, branch, body := partsOf(n)
		terms := meterPipe(pipe)
		if terms > maxTerms {
			return i.lineOf(n), errTerms
		}
		nodes = append(nodes, i.tick(n, 1+terms), n)
		if branch == nil {
			continue
		}
		if line, err := i.list(branch.List, body); err != nil {
			return line, err
		}
		if line, err := i.list(branch.ElseList, 1); err != nil {
			return line, err
		}
	}
	l.Nodes = nodes
	return 0, nil
}

func (i *instrumenter) tick(before parse.Node, steps int) parse.Node {
	text := []byte{0}
	i.ticks[&text[0]] = tick{i.lineOf(before), steps}
	return &parse.TextNode{NodeType: parse.NodeText, Pos: before.Position(), Text: text}
}

// partsOf returns the pipeline of a node and its branches, nil for none, and the
// steps that executing the first branch costs.
func partsOf(n parse.Node) (pipe *parse.PipeNode, branch *parse.BranchNode, body int) {
	switch n := n.(type) {
	case *parse.ActionNode:
		return n.Pipe, nil, 0
	case *parse.TemplateNode:
		return n.Pipe, nil, 0
	case *parse.RangeNode:
		return n.Pipe, &n.BranchNode, bodySteps
	case *parse.IfNode:
		return n.Pipe, &n.BranchNode, 1
	case *parse.WithNode:
		return n.Pipe, &n.BranchNode, 1
	}
	return nil, nil, 0
}

// unmetered are the built-in functions whose cost grows with their arguments.
// Others are redefined (see functions) or take constant time.
var unmetered = []string{"eq", "ne", "lt", "le", "gt", "ge", "index"}

// passFunction is the name of the function that charges a value and returns it. It
// is not defined when the user's text is parsed.
const passFunction = "charged"

// pass implements passFunction.
func (m *meter) pass(v reflect.Value) (reflect.Value, error) {
	size := 0
	if s := indirect(v); s.Kind() == reflect.String {
		size = s.Len()
	}
	return v, m.charge(1, size)
}

func indirect(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	return v
}

// meterPipe passes the arguments of unmetered functions through passFunction, and
// returns the number of terms.
func meterPipe(p *parse.PipeNode) (terms int) {
	if p == nil {
		return 0
	}
	cmds := make([]*parse.CommandNode, 0, len(p.Cmds))
	for n, cmd := range p.Cmds {
		name, _ := cmd.Args[0].(*parse.IdentifierNode)
		charged := name != nil && slices.Contains(unmetered, name.Ident)
		if charged && n > 0 {
			cmds = append(cmds, command(cmd.Pos, pass(cmd.Pos)))
		}
		cmds = append(cmds, cmd)
		terms++
		for k, arg := range cmd.Args {
			terms += 1 + meterArg(arg)
			if charged && k > 0 && !isConstant(arg) {
				cmd.Args[k] = &parse.PipeNode{
					NodeType: parse.NodePipe, Pos: arg.Position(), Line: p.Line,
					Cmds: []*parse.CommandNode{command(arg.Position(), pass(arg.Position()), arg)},
				}
			}
		}
	}
	p.Cmds = cmds
	return terms
}

func meterArg(arg parse.Node) (terms int) {
	switch n := arg.(type) {
	case *parse.PipeNode:
		return meterPipe(n)
	case *parse.ChainNode:
		return 1 + meterArg(n.Node)
	}
	return 0
}

func isConstant(arg parse.Node) bool {
	switch arg.(type) {
	case *parse.BoolNode, *parse.NilNode, *parse.NumberNode, *parse.StringNode:
		return true
	}
	return false
}

func pass(at parse.Pos) parse.Node { return parse.NewIdentifier(passFunction).SetPos(at) }

func command(at parse.Pos, args ...parse.Node) *parse.CommandNode {
	return &parse.CommandNode{NodeType: parse.NodeCommand, Pos: at, Args: args}
}
