package xds

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/slipway-mesh/slipway/internal/discovery/envoy"
	"github.com/slipway-mesh/slipway/internal/discovery/mesh"
	"github.com/slipway-mesh/slipway/internal/discovery/resolve"
	"github.com/slipway-mesh/slipway/internal/discovery/source"
)

// client is a model of Envoy's side of delta ADS: what it subscribes to follows from what it holds, virtual hosts without their
// table are lost, and a table that goes takes its virtual hosts along.
type client struct {
	t        *testing.T
	server   *Server
	proxy    *mesh.Proxy
	stream   *stream
	pending  []*discovery.DeltaDiscoveryResponse
	held     [typeCount]map[string]string
	wants    [typeCount]map[string]bool // endpoints and tables
	asked    [typeCount]bool
	answers  int // responses
	received int // resources
	again    int // those that were held just so; endpoints are sent again with their cluster, because Envoy waits for them
	// warming are clusters that wait for their endpoints. Envoy acknowledges no clusters until there are none: owed is what it will.
	warming map[string]bool
	owed    string
	// given up are endpoints that are not wanted any more: late says that they are told of after the acknowledgement that made them so.
	givenUp []string
	late    bool
	// rejects says what this build of Envoy does not take; silent says that it does not name it.
	rejects func(name string) bool
	silent  bool
}

func newClient(t *testing.T, server *Server, proxy *mesh.Proxy) *client {
	c := &client{t: t, server: server, proxy: proxy}
	for i := range typeCount {
		c.held[i], c.wants[i] = map[string]string{}, map[string]bool{}
	}
	c.connect()
	return c
}

// connect opens a stream, and says what is held from before.
func (c *client) connect() {
	c.pending, c.asked = nil, [typeCount]bool{}
	c.warming, c.owed, c.givenUp = map[string]bool{}, "", nil
	c.stream = c.server.newStream(context.Background(), c.proxy, c.receive)
	c.server.streams[c.stream] = struct{}{}
	c.server.joinScope(c.stream)
	c.stream.target.Store(c.server.targetOf(c.stream))
	c.ask(clusterIndex, nil, nil)
	c.ask(listenerIndex, nil, nil)
	if c.proxy.Names() != "" {
		c.ask(nameIndex, []string{"*"}, nil)
	}
	for _, i := range []int{endpointIndex, routeIndex} {
		if len(c.wants[i]) > 0 {
			c.ask(i, slices.Sorted(maps.Keys(c.wants[i])), nil)
		}
	}
	if c.proxy.VHDS && len(c.held[routeIndex]) > 0 {
		c.ask(hostIndex, nil, nil)
	}
}

// receive reads what would go over the wire.
func (c *client) receive(r *response) error {
	buffers, err := Codec{}.Marshal(r)
	if err != nil {
		return err
	}
	message := &discovery.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(buffers.Materialize(), message); err != nil {
		return err
	}
	c.pending = append(c.pending, message)
	return nil
}

// ask subscribes; the first request of a type carries what is held.
func (c *client) ask(i int, add, remove []string) {
	request := &discovery.DeltaDiscoveryRequest{TypeUrl: typeURLs[i], ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: remove}
	if !c.asked[i] {
		c.asked[i] = true
		request.InitialResourceVersions = maps.Clone(c.held[i])
	}
	c.handle(request)
}

func (c *client) handle(message *discovery.DeltaDiscoveryRequest) {
	data, err := proto.Marshal(message)
	if err != nil {
		c.t.Fatal(err)
	}
	read := &request{}
	if err := (Codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, read); err != nil {
		c.t.Fatal(err)
	}
	if err := c.stream.handle(read); err != nil {
		c.t.Fatal(err)
	}
}

// deliver takes one response in, and acknowledges it.
func (c *client) deliver() {
	message := c.pending[0]
	c.pending = c.pending[1:]
	c.answers++
	i, _ := indexOf(message.TypeUrl)
	if bad := c.refused(message); len(bad) > 0 {
		text := "refused"
		if !c.silent {
			text += ": " + strings.Join(bad, ", ")
		}
		c.handle(&discovery.DeltaDiscoveryRequest{TypeUrl: message.TypeUrl, ResponseNonce: message.Nonce, ErrorDetail: &status.Status{Message: text}})
		return
	}
	c.warmBefore(i)
	seen := map[string]bool{}
	for _, r := range message.Resources {
		c.received++
		if version, held := c.held[i][r.Name]; held && version == r.Version && i != endpointIndex {
			c.again++
		}
		if seen[r.Name] {
			c.t.Fatalf("%s stands twice in one response", r.Name)
		}
		seen[r.Name] = true
		_, table := c.held[routeIndex][envoy.TableOf(r.Name)]
		unwanted := i == endpointIndex && !c.wants[i][r.Name] // it was given up while this was on its way
		if (i != hostIndex || table) && !unwanted {
			c.held[i][r.Name] = r.Version
		}
		switch i {
		case clusterIndex:
			body := &cluster.Cluster{}
			if err := r.Resource.UnmarshalTo(body); err != nil {
				c.t.Fatal(err)
			}
			if delete(c.warming, r.Name); body.GetType() == cluster.Cluster_EDS {
				c.warming[r.Name] = true
			}
			c.want(endpointIndex, r.Name, body.GetType() == cluster.Cluster_EDS)
		case endpointIndex:
			delete(c.warming, r.Name)
		case listenerIndex:
			c.wantTables(r)
		}
	}
	for _, name := range message.RemovedResources {
		delete(c.held[i], name)
		if i <= endpointIndex {
			delete(c.warming, name)
		}
		if i == clusterIndex {
			c.want(endpointIndex, name, false)
		}
		if i == routeIndex {
			c.lose(name)
		}
	}
	if i == clusterIndex {
		c.owed = message.Nonce
	} else {
		c.handle(&discovery.DeltaDiscoveryRequest{TypeUrl: message.TypeUrl, ResponseNonce: message.Nonce})
	}
	if c.owed != "" && len(c.warming) == 0 {
		nonce := c.owed
		c.owed = ""
		c.handle(&discovery.DeltaDiscoveryRequest{TypeUrl: envoy.ClusterType, ResponseNonce: nonce})
	}
	c.giveUp()
	if i == routeIndex && c.proxy.VHDS && !c.asked[hostIndex] && len(c.held[routeIndex]) > 0 {
		c.ask(hostIndex, nil, nil)
	}
}

// refused lists what the client rejects of a response. It takes nothing of it then.
func (c *client) refused(message *discovery.DeltaDiscoveryResponse) []string {
	var bad []string
	for _, r := range message.Resources {
		if c.rejects != nil && c.rejects(r.Name) {
			bad = append(bad, r.Name)
		}
	}
	return bad
}

// want subscribes to a name, or gives it up and with it what is held of it.
func (c *client) want(i int, name string, wanted bool) {
	switch {
	case wanted && !c.wants[i][name]:
		c.wants[i][name] = true
		c.ask(i, []string{name}, nil)
	case !wanted && c.wants[i][name]:
		delete(c.wants[i], name)
		delete(c.held[i], name)
		if c.late && i == endpointIndex {
			c.givenUp = append(c.givenUp, name)
			return
		}
		c.ask(i, nil, []string{name})
	}
}

// giveUp tells of what is not wanted any more.
func (c *client) giveUp() {
	names := slices.DeleteFunc(c.givenUp, func(name string) bool { return c.wants[endpointIndex][name] })
	c.givenUp = nil
	if len(names) > 0 {
		c.ask(endpointIndex, nil, names)
	}
}

// warmBefore fails where what leads to clusters comes before they are warm.
func (c *client) warmBefore(i int) {
	if i != listenerIndex && i != routeIndex && i != hostIndex {
		return
	}
	for name := range c.warming {
		if _, there := get(c.stream.target.Load().parts[endpointIndex], name); there {
			c.t.Fatalf("%s come while cluster %s waits for its endpoints\nthe stream: %s", shortNames[i], name, c.stream)
		}
	}
}

func (c *client) lose(table string) {
	for name := range c.held[hostIndex] {
		if envoy.TableOf(name) == table {
			delete(c.held[hostIndex], name)
		}
	}
}

// wantTables subscribes to the tables of a listener.
func (c *client) wantTables(r *discovery.Resource) {
	body := &listener.Listener{}
	if err := r.Resource.UnmarshalTo(body); err != nil {
		c.t.Fatal(err)
	}
	for _, chain := range body.FilterChains {
		for _, filter := range chain.Filters {
			manager := &hcm.HttpConnectionManager{}
			if filter.GetTypedConfig().MessageIs(manager) && filter.GetTypedConfig().UnmarshalTo(manager) == nil && manager.GetRds() != nil {
				c.want(routeIndex, manager.GetRds().RouteConfigName, true)
			}
		}
	}
}

// settle delivers all that there is until nothing moves.
func (c *client) settle() {
	for n := 0; ; n++ {
		c.wakeUp()
		if len(c.pending) == 0 {
			return
		}
		if n > 1000 {
			c.t.Fatal("it never ends")
		}
		c.deliver()
	}
}

func (c *client) wakeUp() {
	select {
	case <-c.stream.awake:
		if err := c.stream.advance(); err != nil {
			c.t.Fatal(err)
		}
	default:
	}
}

// check compares what is held with what a server that has just begun would send. A client keeps tables that no listener names
// any more, as long as they are there: they are left out.
func (c *client) check(state *resolve.State, at string) {
	c.t.Helper()
	c.settle()
	fresh := Resources(state.World, c.proxy)
	for i, url := range typeURLs {
		want := map[string]string{}
		for _, r := range fresh[url] {
			if i == hostIndex || c.wants[i][r.Name] || i == clusterIndex || i == listenerIndex || i == nameIndex {
				want[r.Name] = r.Version
			}
		}
		if c.rejects != nil { // of these the last good one stays, which here is none
			maps.DeleteFunc(want, func(name, _ string) bool { return c.rejects(name) })
		}
		if i == hostIndex {
			maps.DeleteFunc(want, func(name, _ string) bool { return !c.wants[routeIndex][envoy.TableOf(name)] })
		}
		if diff := cmp.Diff(want, c.held[i]); diff != "" {
			c.t.Fatalf("%s: %s (-wanted +held):\n%s\nthe stream: %s", at, shortNames[i], diff, c.stream)
		}
	}
	c.stream.noteStep()
	if done, now := c.stream.done.Load(), c.stream.target.Load().step; done != now {
		c.t.Fatalf("%s: all is held, and step %d is not noted: %d\nthe stream: %s", at, now, done, c.stream)
	}
}

// emptyServer serves a mesh in which there is nothing yet.
func emptyServer() (*Server, *resolve.State) {
	server := NewServer(NewMetrics(prometheus.NewRegistry()))
	state := resolve.Start(resolve.Options{ClusterID: "Kubernetes", Domain: "cluster.local", RootNamespace: "istio-system", MeshConfigMap: "istio"})
	server.world = state.World
	return server, state
}

// TestClientsHoldWhatIsThere: whatever changes, in whatever order responses arrive and streams break, each client ends up with
// exactly what a computation from scratch gives, without waiting for a barrier's deadline.
func TestClientsHoldWhatIsThere(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 9))
		server, state := emptyServer()
		var clients []*client
		for k, namespace := range []string{"a", "a", "b"} {
			proxy := &mesh.Proxy{ID: fmt.Sprint(k), Kind: mesh.SidecarProxy, Namespace: namespace, Addresses: []string{"10.9.9.9"}, VHDS: k != 1, Metadata: captured(namespace)}
			if k == 1 { // one that sees the same hosts as another is told of them otherwise
				proxy.Settings = `{"proxyHeaders":{"attemptCount":{"disabled":true},"preserveHttp1HeaderCase":true}}`
			}
			clients = append(clients, newClient(t, server, proxy))
		}
		clients[0].proxy.Labels = map[string]string{"app": "client"}
		clients[1].late, clients[2].late = true, true
		clients = append(clients, newClient(t, server, &mesh.Proxy{ID: "gateway", Kind: mesh.Router, Namespace: "a", Labels: map[string]string{"app": "gateway"}, VHDS: true}))
		for step := range 60 {
			at := fmt.Sprintf("seed %d, step %d", seed, step)
			switch c := clients[r.IntN(len(clients))]; r.IntN(8) {
			case 0, 1, 2:
				next, dirty := resolve.Next(state, []source.Change{change(r), change(r)})
				state = next
				server.Update(state.World, dirty)
			case 3:
				server.leave(c.stream)
				c.connect()
			case 4:
				c.check(state, at)
			default:
				c.wakeUp()
				if len(c.pending) > 0 {
					c.deliver()
				}
			}
		}
		for _, c := range clients {
			c.check(state, fmt.Sprintf("seed %d, end, client %s", seed, c.proxy.ID))
		}
	}
}

// TestReplicas: proxies move between two replicas, each of which hears of changes when it does. What a proxy holds in the same version is
// never sent again; where one is taken back to an older state by the move, the replica notices when it catches up; and in the end all
// hold what there is.
func TestReplicas(t *testing.T) {
	moved, noticed := 0, 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 13))
		type replica struct {
			server *Server
			state  *resolve.State
			behind []source.Change
		}
		var replicas [2]replica
		for k := range replicas {
			replicas[k].server, replicas[k].state = emptyServer()
		}
		catchUp := func(k int) {
			a := &replicas[k]
			next, dirty := resolve.Next(a.state, a.behind)
			a.state, a.behind = next, nil
			a.server.Update(a.state.World, dirty)
		}
		var clients []*client
		at := map[*client]int{}
		for k, namespace := range []string{"a", "b", "a"} {
			clients = append(clients, newClient(t, replicas[k%2].server, &mesh.Proxy{ID: fmt.Sprint(k), Kind: mesh.SidecarProxy, Namespace: namespace, VHDS: k != 2, Metadata: captured(namespace)}))
			at[clients[k]] = k % 2
		}
		for range 60 {
			c := clients[r.IntN(len(clients))]
			switch r.IntN(6) {
			case 0, 1:
				one := change(r)
				for k := range replicas {
					replicas[k].behind = append(replicas[k].behind, one)
				}
			case 2:
				catchUp(r.IntN(2))
			case 3:
				c.settle()
				c.server.leave(c.stream)
				at[c] = 1 - at[c]
				c.server = replicas[at[c]].server
				moved++
				ahead := len(replicas[at[c]].behind) > len(replicas[1-at[c]].behind)
				before, held := count(t, c.server.metrics.Rollbacks), clone(c.held)
				c.connect()
				c.settle()
				rolled := took(held, c.held)
				catchUp(at[c])
				c.settle()
				if back := took(held, c.held); ahead && rolled && !back { // it was taken back, and has again just what it had
					if noticed++; count(t, c.server.metrics.Rollbacks) == before {
						t.Fatalf("seed %d: client %s was rolled back, and nobody noticed", seed, c.proxy.ID)
					}
				}
			default:
				c.wakeUp()
				if len(c.pending) > 0 {
					c.deliver()
				}
			}
		}
		catchUp(0)
		catchUp(1)
		for _, c := range clients {
			c.check(replicas[0].state, fmt.Sprintf("seed %d, client %s", seed, c.proxy.ID))
			if c.again > 0 {
				t.Errorf("seed %d: client %s was sent %d resources that it held", seed, c.proxy.ID, c.again)
			}
		}
	}
	if moved == 0 || noticed == 0 {
		t.Errorf("%d moves, %d rolled back: nothing was tested", moved, noticed)
	}
}

// count reads a counter.
func count(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func clone(held [typeCount]map[string]string) (out [typeCount]map[string]string) {
	for i := range held {
		out[i] = maps.Clone(held[i])
	}
	return out
}

// took says whether something that was held is not, or is another version.
func took(before, after [typeCount]map[string]string) bool {
	for i := range before {
		for name, version := range before[i] {
			if i != endpointIndex && after[i][name] != version {
				return true
			}
		}
	}
	return false
}

// TestRejectedResourcesStopNoOther: a client that refuses some resources, by name or without a word, gets all others, and is not
// asked again and again.
func TestRejectedResourcesStopNoOther(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 11))
		server, state := emptyServer()
		c := newClient(t, server, &mesh.Proxy{ID: "picky", Kind: mesh.SidecarProxy, Namespace: "a", VHDS: true})
		c.silent = seed%2 == 0
		c.rejects = func(name string) bool { return strings.Contains(name, "o1") }
		for step := range 30 {
			next, dirty := resolve.Next(state, []source.Change{change(r), change(r), change(r)})
			state = next
			server.Update(state.World, dirty)
			if r.IntN(3) == 0 {
				c.check(state, fmt.Sprintf("seed %d, step %d", seed, step))
			}
		}
		c.check(state, fmt.Sprintf("seed %d, end", seed))
		for _, one := range server.Quarantine.List() {
			if !c.rejects(one.Name) {
				t.Errorf("seed %d: %s is in quarantine", seed, one.Name)
			}
		}
	}
}

// TestReconnectSendsNothing: a client that comes back with all that there is is sent nothing, in one response: Envoy would take a stream that
// brings none for one that failed.
func TestReconnectSendsNothing(t *testing.T) {
	server := NewServer(NewMetrics(prometheus.NewRegistry()))
	r := rand.New(rand.NewPCG(1, 1))
	var changes []source.Change
	for range 40 {
		changes = append(changes, change(r))
	}
	state, dirty := resolve.Next(resolve.Start(resolve.Options{Domain: "cluster.local"}), changes)
	server.Update(state.World, dirty)
	c := newClient(t, server, &mesh.Proxy{Kind: mesh.SidecarProxy, Namespace: "a", VHDS: true})
	c.check(state, "at first")
	if c.received == 0 {
		t.Fatal("nothing was sent at all")
	}
	c.received, c.answers = 0, 0
	server.leave(c.stream)
	c.connect()
	c.check(state, "after a reconnect")
	if c.received != 0 || c.answers != 1 {
		t.Errorf("%d resources were sent again, in %d responses", c.received, c.answers)
	}
}

// String tells what a stream waits for.
func (s *stream) String() string {
	text := fmt.Sprintf("warming %v, all %t", slices.Collect(maps.Keys(s.warming)), s.warmAll)
	for i, t := range s.types {
		if t != nil {
			text += fmt.Sprintf("; %s: nonce %q, doomed %v, fresh %v", shortNames[i], t.nonce, t.doomed, t.fresh)
		}
	}
	return text
}
