// Package page shows a person what the control plane knows: who calls whom, how each proxy stands, how far each object has come,
// and the installations. It is rendered here and reads nothing itself: its Source gathers what is shown.
package page

import (
	"context"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/slipway-mesh/slipway/internal/discovery/traffic"
)

//go:embed page.html
var text string

//go:embed page.css page.js
var files embed.FS

// Path is where the page begins.
const Path = "/mesh"

// Source gathers what is shown, each when it is asked for.
type Source struct {
	Revision, Version string
	// State tells of proxies and objects, of all replicas.
	State func(context.Context) State
	// Services lists the services that are known.
	Services func() []Service
	// Traffic asks the proxies of the addresses what goes between services.
	Traffic func(ctx context.Context, addresses []string) traffic.Traffic
	// Installations lists the IstioOperators of the cluster.
	Installations func(context.Context) ([]Installation, error)
}

// State is how proxies and objects stand.
type State struct {
	Replicas []Replica
	Proxies  []Proxy
	Objects  []Object
}

// Replica is a pod of the control plane.
type Replica struct {
	Name    string
	Proxies int
	Error   string // why it could not be asked
}

// Proxy is a connected proxy.
type Proxy struct {
	Name, Namespace, Kind, Address, Version, Replica string
	Connected                                        time.Time
	// Types are how it stands with clusters, listeners and so on.
	Types []Standing
}

// Standing is SYNCED, STALE, REJECTED or NOT SENT, with the proxy's words in the last but one case.
type Standing struct{ Type, State, Error string }

// Trouble says that the proxy is not in step.
func (p Proxy) Trouble() bool {
	return slices.ContainsFunc(p.Types, func(s Standing) bool { return s.State == "STALE" || s.State == "REJECTED" })
}

// Object is one that users wrote.
type Object struct {
	Kind, Namespace, Name string
	// Reached of Of proxies hold what it makes; Of is 0 where that is not followed.
	Reached, Of int
	// Problems are what is wrong with it, Rejections what proxies refused of it.
	Problems   []Problem
	Rejections []string
}

// Problem is one thing that is wrong.
type Problem struct {
	Field, Reason, Message string
	Refuse                 bool
}

// Trouble says that somebody should look at it.
func (o Object) Trouble() bool {
	return o.Reached < o.Of || len(o.Problems) > 0 || len(o.Rejections) > 0
}

// Service is one that can be called.
type Service struct {
	Host, Namespace string
	Ports           []string // as 80 http
	Endpoints       int
	External        bool
}

// Installation is an IstioOperator.
type Installation struct {
	Namespace, Name, Profile, Revision, Status, Message string
	Components                                          []Component
}

// Component is a part of an installation.
type Component struct{ Name, Status, Message string }

// most is how many lines a table has; whoever has more narrows them by namespace or name.
const most = 500

// view is one request for the page.
type view struct {
	Source    Source
	Tab       string
	Namespace string
	Search    string
	State     State
	Shown     any
	Total     int // lines there would be
	Error     string
	Now       time.Time
}

// Handler serves the page.
func Handler(source Source) http.Handler {
	page := template.Must(template.New("page.html").Funcs(template.FuncMap{"ago": ago, "rate": rate, "number": number, "lower": strings.ToLower}).Parse(text))
	mux := http.NewServeMux()
	mux.Handle("GET "+Path+"/{file}", http.StripPrefix(Path, http.FileServerFS(files)))
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, r *http.Request) {
		v := source.look(r)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
		w.Header().Set("Cache-Control", "no-store")
		if err := page.Execute(w, v); err != nil {
			slog.Debug("page: whoever looked is gone", "error", err)
		}
	})
	return mux
}

// look gathers what a request asks for.
func (s Source) look(r *http.Request) view {
	q := r.URL.Query()
	v := view{Source: s, Tab: q.Get("tab"), Namespace: q.Get("namespace"), Search: q.Get("search"), Now: time.Now()}
	v.State = s.State(r.Context())
	switch v.Tab {
	case "services":
		show(&v, s.Services(), func(one Service) (string, string) { return one.Namespace, one.Host })
	case "proxies":
		troubledFirst(v.State.Proxies)
		show(&v, v.State.Proxies, func(one Proxy) (string, string) { return one.Namespace, one.Name })
	case "objects":
		troubledFirst(v.State.Objects)
		show(&v, v.State.Objects, func(one Object) (string, string) { return one.Namespace, one.Kind + "/" + one.Name })
	case "installations":
		found, err := s.Installations(r.Context())
		if err != nil {
			v.Error = err.Error()
		}
		show(&v, found, func(one Installation) (string, string) { return one.Namespace, one.Name })
	default:
		v.Tab = "traffic"
		seen := s.Traffic(r.Context(), v.State.addresses())
		seen.Edges = slices.DeleteFunc(slices.Clone(seen.Edges), func(e traffic.Edge) bool { return !v.wantsEdge(e) })
		v.Total = len(seen.Edges)
		seen.Edges = seen.Edges[:min(v.Total, most)]
		v.Shown = trafficView{seen, draw(seen.Edges)}
	}
	return v
}

type trafficView struct {
	traffic.Traffic
	Graph *graph
}

func (v *view) wantsEdge(e traffic.Edge) bool {
	return (v.Namespace == "" || e.From.Namespace == v.Namespace || e.To.Namespace == v.Namespace) &&
		(v.Search == "" || strings.Contains(e.From.Service, v.Search) || strings.Contains(e.To.Service, v.Search))
}

// show keeps what is asked for.
func show[T any](v *view, list []T, of func(T) (namespace, name string)) {
	kept := slices.DeleteFunc(slices.Clone(list), func(one T) bool {
		namespace, name := of(one)
		return v.Namespace != "" && namespace != v.Namespace || !strings.Contains(name, v.Search)
	})
	v.Total = len(kept)
	v.Shown = kept[:min(len(kept), most)]
}

// troubledFirst keeps the order else.
func troubledFirst[T interface{ Trouble() bool }](list []T) {
	slices.SortStableFunc(list, func(a, b T) int {
		switch {
		case a.Trouble() == b.Trouble():
			return 0
		case a.Trouble():
			return -1
		}
		return 1
	})
}

// Left is how many lines are not shown.
func (v view) Left() int { return v.Total - min(v.Total, most) }

// addresses are those of the proxies that tell one.
func (s State) addresses() []string {
	var out []string
	for _, proxy := range s.Proxies {
		if proxy.Address != "" {
			out = append(out, proxy.Address)
		}
	}
	return out
}

// Behind counts proxies that are not in step.
func (s State) Behind() int {
	return count(s.Proxies)
}

// Troubled counts objects that somebody should look at.
func (s State) Troubled() int {
	return count(s.Objects)
}

func count[T interface{ Trouble() bool }](list []T) int {
	n := 0
	for _, one := range list {
		if one.Trouble() {
			n++
		}
	}
	return n
}
