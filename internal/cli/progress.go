package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/slipway-mesh/slipway/api/v1alpha1"
	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
)

// progress shows how components come along: on a terminal a line each, drawn anew while it changes, with a colour for how it
// ended; elsewhere a plain line for each change of state.
type progress struct {
	out    io.Writer
	lively bool
	drawn  int // lines on the terminal
	shown  map[string]v1alpha1.Phase
}

func newProgress(out io.Writer) *progress {
	file, ok := out.(*os.File)
	lively := ok && term.IsTerminal(int(file.Fd())) && env("NO_COLOR") == "" && env("TERM") != "dumb"
	return &progress{out: out, lively: lively, shown: map[string]v1alpha1.Phase{}}
}

const (
	green, red, plain = "\x1b[32m", "\x1b[31m", "\x1b[0m"
	upAndClear        = "\x1b[1A\x1b[2K"
)

// show prints the components as they are now.
func (p *progress) show(components map[string]lifecycle.Component) {
	var names []string
	for name := range components {
		names = append(names, name)
	}
	slices.Sort(names)
	if p.lively {
		fmt.Fprint(p.out, strings.Repeat(upAndClear, p.drawn))
		p.drawn = len(names)
	}
	for _, name := range names {
		state := components[name]
		if !p.lively && p.shown[name] == state.Phase {
			continue
		}
		p.shown[name] = state.Phase
		fmt.Fprintln(p.out, p.line(name, state))
	}
}

func (p *progress) line(name string, state lifecycle.Component) string {
	sign, text, colour := "-", name+": "+state.Reason, ""
	switch state.Phase {
	case v1alpha1.PhaseHealthy:
		sign, text, colour = "✔", name+" installed", green
	case v1alpha1.PhaseError:
		sign, colour = "✘", red
	}
	if p.lively {
		if colour != "" {
			sign = colour + sign + plain
		}
		const width = 160 // a line that wraps could not be drawn anew
		text = text[:min(len(text), width)]
	}
	return sign + " " + text
}
