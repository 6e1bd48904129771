package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// debugRoutes tell of the control plane itself.
func (p *plane) debugRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/syncz", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.engine.Server.Report()) })
	mux.HandleFunc("GET /debug/rejections", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.engine.Server.Quarantine.List()) })
	mux.HandleFunc("GET /debug/problems", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.engine.Problems()) })
	mux.HandleFunc("GET /debug/reach/{kind}/{namespace}/{name}", p.tellReach)
	mux.HandleFunc("GET "+partPath, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.engine.Part()) })
	mux.HandleFunc("GET /debug/config_dump", p.tellConfig)
	mux.HandleFunc("GET "+rootsPath, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.rootsReport()) })
	for path, profile := range map[string]http.HandlerFunc{"": pprof.Index, "profile": pprof.Profile, "trace": pprof.Trace, "symbol": pprof.Symbol} {
		mux.HandleFunc("GET /debug/pprof/"+path, onlyLocal(profile))
	}
	return mux
}

// partPath is for other replicas.
const partPath = "/debug/part"

func (p *plane) tellReach(w http.ResponseWriter, r *http.Request) {
	reach, known := p.engine.Reach(r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name"))
	if !known {
		http.Error(w, "the object is not known", http.StatusNotFound)
		return
	}
	writeJSON(w, reach)
}

func (p *plane) tellConfig(w http.ResponseWriter, r *http.Request) {
	dump, err := p.engine.Server.ConfigDump(r.URL.Query().Get("proxyID"))
	if err != nil || dump == nil {
		http.Error(w, fmt.Sprintf("proxyID must be that of a connected proxy, as POD.NAMESPACE (%v)", err), http.StatusNotFound)
		return
	}
	text, err := protojson.Marshal(dump)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(text); err != nil {
		slog.Debug("debug: whoever asked is gone", "error", err)
	}
}

// guarded answers those who are in the pod or come through a forwarded port, and accounts of the control plane's own
// namespace: by a token for the audience istio-ca, or by a certificate of this mesh, as other replicas have.
func (p *plane) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if local(r) {
			next.ServeHTTP(w, r)
			return
		}
		id, err := p.callers.OfRequest(r)
		switch {
		case err != nil:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "come through a forwarded port, or show a token of this namespace for the audience "+identity.Audience, http.StatusUnauthorized)
		case id.Namespace != p.options.namespace:
			http.Error(w, "only for accounts of namespace "+p.options.namespace, http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// onlyLocal is for what costs processor time: profiles.
func onlyLocal(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !local(r) {
			http.Error(w, "only through a forwarded port", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

func local(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Warn("debug: cannot answer", "error", err)
	}
}
