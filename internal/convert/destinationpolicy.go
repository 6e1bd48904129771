package convert

import "maps"

// balancers are today's names of the old load balancers.
var balancers = map[string]string{"ROUND_ROBIN": "ROUND_ROBIN", "LEAST_CONN": "LEAST_REQUEST", "RANDOM": "RANDOM"}

// destinationPolicy adds a traffic policy to its destination's host, or to the subset that its labels name.
func (c *conversion) destinationPolicy(s source) {
	destination := child(s.spec, "destination")
	h := c.host(s.namespace, c.serviceHost(s, "spec.destination", destination))
	if s.spec["source"] != nil {
		c.note(s, "spec.source", "a policy cannot depend on the caller any more: it is not carried over")
		return
	}
	subset := ""
	if labels := child(destination, "labels"); len(labels) > 0 {
		subset = subsetName(labels)
		h.subsets[subset] = labels
	}
	policy := Object{}
	if balancing := child(s.spec, "loadBalancing"); balancing != nil {
		if name, ok := balancers[text(balancing, "name")]; ok {
			policy["loadBalancer"] = Object{"simple": name}
		}
		c.lost(s, "spec.loadBalancing", balancing, "custom")
	}
	if breaker := child(child(s.spec, "circuitBreaker"), "simpleCb"); breaker != nil {
		maps.Copy(policy, circuitBreaker(breaker))
	}
	c.lost(s, "spec", s.spec, "circuitBreaker.custom", "custom")
	if len(policy) == 0 {
		return
	}
	if h.policies[subset] == nil {
		h.policies[subset] = Object{}
	} else {
		c.note(s, "spec", "another policy is for the same destination: what both say is taken of this one")
	}
	maps.Copy(h.policies[subset], policy)
}

// circuitBreaker is a connection pool and outlier detection.
func circuitBreaker(old Object) Object {
	tcp, http, outliers := Object{}, Object{}, Object{}
	for name, to := range map[string]struct {
		where Object
		field string
	}{
		"maxConnections": {tcp, "maxConnections"}, "httpMaxPendingRequests": {http, "http1MaxPendingRequests"}, "httpMaxRequests": {http, "http2MaxRequests"},
		"httpMaxRequestsPerConnection": {http, "maxRequestsPerConnection"}, "httpMaxRetries": {http, "maxRetries"}, "httpConsecutiveErrors": {outliers, "consecutive5xxErrors"},
		"httpDetectionInterval": {outliers, "interval"}, "sleepWindow": {outliers, "baseEjectionTime"}, "httpMaxEjectionPercent": {outliers, "maxEjectionPercent"},
	} {
		if value := old[name]; value != nil {
			to.where[to.field] = value
		}
	}
	out, pool := Object{}, Object{}
	if len(tcp) > 0 {
		pool["tcp"] = tcp
	}
	if len(http) > 0 {
		pool["http"] = http
	}
	if len(pool) > 0 {
		out["connectionPool"] = pool
	}
	if len(outliers) > 0 {
		out["outlierDetection"] = outliers
	}
	return out
}
