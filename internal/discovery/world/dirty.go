package world

// Dirty is what one step changed, by the names that scopes and sections depend on.
type Dirty struct {
	// Hosts are those whose service, route or rule changed. A pattern such as *.foo.com stands for all it covers.
	Hosts map[string]struct{}
	// Endpoints are the hosts whose endpoints changed, and nothing else about them.
	Endpoints map[string]struct{}
	// Gateways says that a Gateway, or a VirtualService bound to one, changed.
	Gateways bool
	// Inbound are the namespaces in which what workloads accept may have changed; "*" is all.
	Inbound map[string]struct{}
	// Sidecars are the Sidecar objects that changed, as namespace/name.
	Sidecars map[string]struct{}
	// Filters says that an EnvoyFilter changed.
	Filters bool
	// All says that everything must be computed anew: MeshConfig changed.
	All bool
	// Tests says that what is asked about callers changed, so that each may belong to another scope.
	Tests bool
}

// NewDirty is nothing.
func NewDirty() Dirty {
	return Dirty{Hosts: map[string]struct{}{}, Endpoints: map[string]struct{}{}, Inbound: map[string]struct{}{}, Sidecars: map[string]struct{}{}}
}

// Empty says that nothing changed.
func (d Dirty) Empty() bool {
	return len(d.Hosts) == 0 && len(d.Endpoints) == 0 && len(d.Inbound) == 0 && len(d.Sidecars) == 0 && !d.Gateways && !d.All && !d.Tests && !d.Filters
}

// Host marks a host.
func (d Dirty) Host(host string) { d.Hosts[host] = struct{}{} }

// Endpoint marks a host's endpoints.
func (d Dirty) Endpoint(host string) { d.Endpoints[host] = struct{}{} }

// Sidecar marks a Sidecar object.
func (d Dirty) Sidecar(namespace, name string) { d.Sidecars[namespace+"/"+name] = struct{}{} }

// Workloads marks a namespace's workloads.
func (d Dirty) Workloads(namespace string) { d.Inbound[namespace] = struct{}{} }
