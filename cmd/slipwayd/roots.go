package main

import (
	"context"
	"log/slog"

	"github.com/slipway-mesh/slipway/internal/discovery"
	"github.com/slipway-mesh/slipway/internal/discovery/xds"
	"github.com/slipway-mesh/slipway/internal/identity/ca"
)

// rootsPath is for other replicas, and for `slipway x ca status`.
const rootsPath = "/debug/roots"

// bundle is what trusts the authority in force, with what is closed when that is another one.
func (p *plane) bundle() (pem []byte, changed <-chan struct{}) {
	authority, changed := p.authority.Watch()
	return authority.RootPEM(), changed
}

// rootsReport says which roots are in force here, and who follows.
func (p *plane) rootsReport() discovery.RootsReport {
	return discovery.RootsReport{Plugged: p.store.Plugged(), Roots: p.authority.Current().Trusted(), RootsReport: p.engine.Server.RootsReport()}
}

// tellRoots tells all proxies which roots to trust, until the context ends.
func (p *plane) tellRoots(ctx context.Context) {
	for {
		authority, changed := p.authority.Watch()
		p.engine.Server.SetRoots(authority.Roots())
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// rootsFollowed asks all replicas, those of other revisions too, since all have one authority. Proxies that do not ask for roots learn of
// them with their next certificate, and nobody knows when that was.
func (p *plane) rootsFollowed(ctx context.Context, authority *ca.Authority) bool {
	version := p.engine.Server.RootsWith(authority.Roots()).Version
	reports := []xds.RootsReport{p.engine.Server.RootsReport()}
	for _, peer := range p.engine.State().Replicas() {
		if peer.Name == p.reporter.Instance {
			continue
		}
		report, err := askPeer[xds.RootsReport](ctx, p, peer, rootsPath)
		if err != nil {
			slog.Warn("authority: the rotation waits for a replica that does not answer", "error", err)
			return false
		}
		reports = append(reports, report)
	}
	for _, report := range reports {
		if report.Version != version || len(report.Behind)+len(report.Deaf) > 0 {
			return false
		}
	}
	return true
}
