package page

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/slipway-mesh/slipway/internal/discovery/traffic"
)

// graph is the drawing of who calls whom, in columns from the callers to the called.
type graph struct {
	Width, Height int
	Nodes         []node
	Lines         []line
}

type node struct {
	traffic.End
	X, Y int
}

// Text is the name, cut to what a box holds.
func (n node) Text() string {
	if r := []rune(n.Service); len(r) > nameLength {
		return string(r[:nameLength-1]) + "…"
	}
	return n.Service
}

// line is an edge, or several between the same two.
type line struct {
	Path, Title string
	Width       float64
	Failing     bool
	Idle        bool
	// Label stands at LabelX, LabelY.
	Label          string
	LabelX, LabelY int
}

const (
	boxWidth, boxHeight  = 170, 44
	columnStep, rowStep  = 300, 72
	margin               = 20
	nameLength           = 22
	mostNodes            = 60 // of which a drawing can still be read
	thinnest, perTenfold = 1.5, 1.5
)

// Box sizes for the template.
func (graph) BoxWidth() int  { return boxWidth }
func (graph) BoxHeight() int { return boxHeight }

// draw is nil where there is nothing to draw, or too much.
func draw(edges []traffic.Edge) *graph {
	calls := map[traffic.End][]traffic.End{}
	called := map[traffic.End]bool{}
	for _, e := range edges {
		if e.From != e.To && !slices.Contains(calls[e.From], e.To) {
			calls[e.From] = append(calls[e.From], e.To)
		}
		if _, there := calls[e.To]; !there {
			calls[e.To] = nil
		}
		called[e.To] = called[e.To] || e.From != e.To
	}
	if len(calls) == 0 || len(calls) > mostNodes {
		return nil
	}
	g := &graph{}
	places := g.place(columns(calls, called))
	g.connect(edges, places)
	return g
}

// columns gives each service the column after its last caller's. Callers that are called in turn make rings: what closes
// one does not count.
func columns(calls map[traffic.End][]traffic.End, called map[traffic.End]bool) map[traffic.End]int {
	column := map[traffic.End]int{}
	onWay := map[traffic.End]bool{}
	var visit func(one traffic.End, depth int)
	visit = func(one traffic.End, depth int) {
		if at, seen := column[one]; onWay[one] || seen && at >= depth {
			return
		}
		column[one] = depth
		onWay[one] = true
		for _, next := range calls[one] {
			visit(next, depth+1)
		}
		delete(onWay, one)
	}
	all := sortedEnds(calls)
	for _, one := range all {
		if !called[one] {
			visit(one, 0)
		}
	}
	for _, one := range all { // those of rings that nobody calls from outside
		if _, seen := column[one]; !seen {
			visit(one, 0)
		}
	}
	return column
}

func sortedEnds[V any](set map[traffic.End]V) []traffic.End {
	out := make([]traffic.End, 0, len(set))
	for one := range set {
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b traffic.End) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service))
	})
	return out
}

// place puts the boxes of each column under each other, in the middle of the drawing's height.
func (g *graph) place(column map[traffic.End]int) map[traffic.End]node {
	rows := map[int]int{}
	for _, c := range column {
		rows[c]++
	}
	tallest := 0
	for c, n := range rows {
		tallest = max(tallest, n)
		g.Width = max(g.Width, 2*margin+c*columnStep+boxWidth)
	}
	g.Height = 2*margin + (tallest-1)*rowStep + boxHeight
	next := map[int]int{}
	places := map[traffic.End]node{}
	for _, one := range sortedEnds(column) {
		c := column[one]
		y := margin + (tallest-rows[c])*rowStep/2 + next[c]*rowStep
		next[c]++
		places[one] = node{End: one, X: margin + c*columnStep, Y: y}
		g.Nodes = append(g.Nodes, places[one])
	}
	return places
}

func (g *graph) connect(edges []traffic.Edge, places map[traffic.End]node) {
	type pair struct{ from, to traffic.End }
	sums := map[pair]*traffic.Edge{}
	var order []pair
	for _, e := range edges {
		p := pair{e.From, e.To}
		if sums[p] == nil {
			sums[p] = &traffic.Edge{}
			order = append(order, p)
		}
		sum := sums[p]
		sum.Requests += e.Requests
		sum.Failed += e.Failed
		sum.Rate += e.Rate
		sum.FailedRate += e.FailedRate
	}
	for _, p := range order {
		from, to, sum := places[p.from], places[p.to], sums[p]
		l := line{Width: thinnest + perTenfold*math.Log10(1+sum.Rate), Failing: sum.FailedRate > 0, Idle: sum.Rate == 0,
			Title: fmt.Sprintf("%s to %s: %s a second, %s of them failed; %s in all, %s of them failed", p.from.Service, p.to.Service, rate(sum.Rate), rate(sum.FailedRate), number(sum.Requests), number(sum.Failed))}
		if sum.Rate > 0 {
			l.Label = rate(sum.Rate) + "/s"
		}
		l.curve(from, to)
		g.Lines = append(g.Lines, l)
	}
}

// curve leads from the right side of one box to the left side of the other; one that leads back, or to the same, goes below.
func (l *line) curve(from, to node) {
	x1, y1, x2, y2 := from.X+boxWidth, from.Y+boxHeight/2, to.X, to.Y+boxHeight/2
	if x2 > x1 {
		bend := (x2 - x1) / 2
		l.Path = fmt.Sprintf("M%d %d C%d %d %d %d %d %d", x1, y1, x1+bend, y1, x2-bend, y2, x2, y2)
		l.LabelX, l.LabelY = (x1+x2)/2, (y1+y2)/2+4
		return
	}
	low := max(from.Y, to.Y) + boxHeight + margin
	l.Path = fmt.Sprintf("M%d %d C%d %d %d %d %d %d", x1, y1, x1+margin*2, low, x2-margin*2, low, x2, y2)
	l.LabelX, l.LabelY = (x1+x2)/2, low-6
}
