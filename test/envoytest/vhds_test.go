package envoytest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipway-mesh/slipway/test/kubetest"
)

// These tests are about Envoy, not about us: what docs/design/0001-vhds.md says of virtual hosts over delta ADS, and
// discovery/xds relies on.

const (
	clusters  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	listeners = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routes    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	hosts     = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
)

// lab is an Envoy at a server that says only what a test says.
type lab struct {
	*ADS
	t     *testing.T
	admin int
}

func newLab(t *testing.T) *lab {
	l := &lab{ADS: NewADS(t), t: t, admin: kubetest.FreePort(t)}
	dir := t.TempDir()
	config := fmt.Sprintf(`{"node": {"id": "lab", "cluster": "lab"}, "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}},
"dynamic_resources": {"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}]},
 "lds_config": {"ads": {}, "resource_api_version": "V3"}, "cds_config": {"ads": {}, "resource_api_version": "V3"}},
"static_resources": {"clusters": [{"name": "ads", "type": "STATIC", "connect_timeout": "1s",
 "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}},
 "load_assignment": {"cluster_name": "ads", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}}}]}]}}]}}`, l.admin, l.Port)
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	kubetest.Process(t, dir, "envoy", Binary(t), "-c", file, "--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "1", "-l", "warning")
	kubetest.Eventually(t, 10*time.Second, func() error { return when(l.Connected(), "Envoy has not connected") })
	l.sent(l.Send(t, clusters, nil))
	return l
}

func when(condition bool, otherwise string) error {
	if condition {
		return nil
	}
	return fmt.Errorf("%s", otherwise)
}

// answered waits for Envoy's answer and returns its error, which is empty for an acknowledgement.
func (l *lab) answered(nonce string) string {
	l.t.Helper()
	kubetest.Eventually(l.t, 5*time.Second, func() error { return when(l.Answer(nonce) != nil, "no answer") })
	return l.Answer(nonce).GetErrorDetail().GetMessage()
}

// sent waits for an acknowledgement.
func (l *lab) sent(nonce string) {
	l.t.Helper()
	if message := l.answered(nonce); message != "" {
		l.t.Fatalf("rejected: %s", message)
	}
}

func packed(m proto.Message) *anypb.Any {
	body, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return body
}

// listen opens a port whose routes are a table's.
func (l *lab) listen(port int, table string) {
	l.t.Helper()
	source := &core.ConfigSource{ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}, ResourceApiVersion: core.ApiVersion_V3}
	manager := &hcm.HttpConnectionManager{StatPrefix: table, RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: source, RouteConfigName: table}},
		HttpFilters: []*hcm.HttpFilter{{Name: "router", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: packed(&router.Router{})}}}}
	name := fmt.Sprint("port-", port)
	l.sent(l.Send(l.t, listeners, []Named{{name, &listener.Listener{Name: name,
		Address:      &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "127.0.0.1", PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(port)}}}},
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{Name: "hcm", ConfigType: &listener.Filter_TypedConfig{TypedConfig: packed(manager)}}}}}}}}))
}

// table sends a route table that takes its virtual hosts one by one.
func (l *lab) table(name string) {
	l.t.Helper()
	source := &core.ConfigSource{ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}, ResourceApiVersion: core.ApiVersion_V3}
	l.sent(l.Send(l.t, routes, []Named{{name, &route.RouteConfiguration{Name: name, Vhds: &route.Vhds{ConfigSource: source}}}}))
}

// host is a virtual host of a table that answers with its text.
func host(table, name, text string, domains ...string) Named {
	full := table + "/" + name
	return Named{full, &route.VirtualHost{Name: full, Domains: domains, Routes: []*route.Route{{
		Match:  &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
		Action: &route.Route_DirectResponse{DirectResponse: &route.DirectResponseAction{Status: 200, Body: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: text}}}},
	}}}}
}

// get returns what a port answers for a host: the text, or the status.
func get(port int, host string) string {
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		return err.Error()
	}
	request.Host = host
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return "closed"
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return fmt.Sprint(response.StatusCode)
	}
	return string(body)
}

func (l *lab) wants(port int, host, want string) {
	l.t.Helper()
	kubetest.Eventually(l.t, 8*time.Second, func() error {
		got := get(port, host)
		return when(got == want, host+" is answered by "+got+", not "+want)
	})
}

// open makes a listener with a table and one virtual host.
func (l *lab) open(port int, table string, virtualHosts ...Named) {
	l.t.Helper()
	l.listen(port, table)
	l.table(table)
	l.sent(l.Send(l.t, hosts, virtualHosts))
}

func TestDomainMovesInOneResponse(t *testing.T) {
	l, port := newLab(t), kubetest.FreePort(t)
	l.open(port, "80", host("80", "a", "from a", "moves.test", "a.test"), host("80", "b", "from b", "b.test"))
	l.wants(port, "moves.test", "from a")
	l.sent(l.Send(t, hosts, []Named{host("80", "a", "from a", "a.test"), host("80", "b", "from b", "b.test", "moves.test")}))
	l.wants(port, "moves.test", "from b")
	// In the other order of names, and with the former owner removed.
	l.sent(l.Send(t, hosts, []Named{host("80", "a", "from a", "a.test", "moves.test"), host("80", "b", "from b", "b.test")}))
	l.wants(port, "moves.test", "from a")
	l.sent(l.Send(t, hosts, []Named{host("80", "b", "from b", "b.test", "moves.test")}, "80/a"))
	l.wants(port, "moves.test", "from b")
	l.wants(port, "a.test", "404")
	// Without the former owner's change it is refused, and what was there stays.
	if message := l.answered(l.Send(t, hosts, []Named{host("80", "c", "from c", "moves.test")})); !strings.Contains(message, "moves.test") {
		t.Errorf("a domain that stands twice is answered by %q", message)
	}
	l.wants(port, "moves.test", "from b")
}

func TestTablesShareHostNames(t *testing.T) {
	l := newLab(t)
	first, second := kubetest.FreePort(t), kubetest.FreePort(t)
	l.open(first, "80", host("80", "a", "on 80", "a.test"))
	l.open(second, "81", host("81", "a", "on 81", "a.test"))
	l.wants(first, "a.test", "on 80")
	l.wants(second, "a.test", "on 81")
	l.sent(l.Send(t, hosts, nil, "80/a"))
	l.wants(first, "a.test", "404")
	l.wants(second, "a.test", "on 81")
	if requests, names := l.Subscribed(hosts); requests != 1 || len(names) != 0 {
		t.Errorf("Envoy asked for virtual hosts %d times, by the names %v", requests, names)
	}
}

func TestVirtualHostsBeforeTheirTableAreLost(t *testing.T) {
	l := newLab(t)
	first, port := kubetest.FreePort(t), kubetest.FreePort(t)
	l.open(first, "80", host("80", "a", "on 80", "a.test"))
	l.wants(first, "a.test", "on 80")
	l.sent(l.Send(t, hosts, []Named{host("81", "a", "too early", "a.test")})) // acknowledged
	l.listen(port, "81")
	l.table("81")
	l.sent(l.Send(t, hosts, []Named{host("81", "b", "in time", "b.test")}))
	l.wants(port, "b.test", "in time")
	if got := get(port, "a.test"); got != "404" {
		t.Errorf("what came before its table is answered by %q", got)
	}
}

func TestTableRemovedForGoodAndAddedLater(t *testing.T) {
	l, port := newLab(t), kubetest.FreePort(t)
	l.open(port, "80", host("80", "a", "first life", "a.test"))
	l.wants(port, "a.test", "first life")
	l.sent(l.Send(t, listeners, nil, fmt.Sprint("port-", port)))
	l.wants(port, "a.test", "closed")
	kubetest.Eventually(t, 10*time.Second, func() error { // the old listener has drained, and nothing holds the table
		return when(!strings.Contains(l.dump(), `"80/a"`), "the table is still there")
	})
	l.listen(port, "80")
	l.table("80")
	if got := get(port, "a.test"); got == "first life" {
		t.Error("virtual hosts of a table that was gone are back by themselves")
	}
	l.sent(l.Send(t, hosts, []Named{host("80", "b", "second life", "b.test")}))
	l.wants(port, "b.test", "second life")
	if got := get(port, "a.test"); got != "404" {
		t.Errorf("a virtual host of the first life is answered by %q", got)
	}
}

// dump is Envoy's config_dump of routes.
func (l *lab) dump() string {
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/config_dump?resource=dynamic_route_configs", l.admin))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(response.Body)
	return string(body)
}

func TestConfigDumpShowsPushedVirtualHostsInTheirTable(t *testing.T) {
	l, port := newLab(t), kubetest.FreePort(t)
	l.open(port, "80", host("80", "a", "here", "a.test"))
	l.wants(port, "a.test", "here")
	var dump struct {
		Configs []struct {
			RouteConfig struct {
				Name         string
				VirtualHosts []struct{ Name string } `json:"virtual_hosts"`
			} `json:"route_config"`
		}
	}
	if err := json.Unmarshal([]byte(l.dump()), &dump); err != nil {
		t.Fatal(err)
	}
	if len(dump.Configs) != 1 || dump.Configs[0].RouteConfig.Name != "80" || len(dump.Configs[0].RouteConfig.VirtualHosts) != 1 || dump.Configs[0].RouteConfig.VirtualHosts[0].Name != "80/a" {
		t.Errorf("config_dump says %+v", dump)
	}
}
