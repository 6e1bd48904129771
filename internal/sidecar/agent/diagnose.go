package agent

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-mesh/slipway/internal/identity"
)

// Finding is one thing that was looked at.
type Finding struct {
	What          string
	Wrong, Remedy string // empty where all is well
}

// patience is how long each look may take.
const patience = 3 * time.Second

// Diagnose looks at what a workload needs to be in the mesh, in the order in which it is needed, from beside the agent that runs. What
// stands on something that is wrong is not looked at.
func Diagnose(ctx context.Context, o Options) []Finding {
	var out []Finding
	for _, look := range []struct {
		what, remedy string
		wrong        func(context.Context, Options) error
	}{
		{"environment", "Create the pod anew, so that it is injected; `slipway x precheck` says whether the injector works.", func(_ context.Context, o Options) error { return o.Check() }},
		{"service account's token in " + o.TokenFile, "The kubelet writes it: look at the events of the pod and at the node's clock.", tokenSound},
		{"root certificate in " + o.RootFile, "The control plane writes ConfigMap istio-ca-root-cert into the namespace: see whether it is there, and whether a control plane runs.", rootSound},
		{"control plane at " + o.Discovery, "See whether its pods are ready, and whether a NetworkPolicy or the DNS of the node is in the way.", planeAnswers},
		{"the agent at port " + strconv.Itoa(o.StatusPort), "See the log of container istio-proxy.", agentReady},
		{"Envoy's certificate", "See the log of container istio-proxy for what the authority answers, and `slipway x ca status`.", certificateSound},
		{"what Envoy was told", "`slipway proxy-status` says what was rejected, and the object's status or Events why.", nothingRejected},
	} {
		if o.NoEnvoy && strings.Contains(look.what, "Envoy") {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, patience)
		err := look.wrong(bounded, o)
		cancel()
		finding := Finding{What: look.what}
		if err != nil {
			finding.Wrong, finding.Remedy = err.Error(), look.remedy
		}
		if out = append(out, finding); err != nil {
			return out
		}
	}
	return out
}

// tokenSound reads what the token says of itself.
func tokenSound(_ context.Context, o Options) error {
	text, err := os.ReadFile(o.TokenFile)
	if err != nil {
		return err
	}
	parts := strings.Split(strings.TrimSpace(string(text)), ".")
	if len(parts) != 3 {
		return errors.New("it is no JSON Web Token")
	}
	var claims struct {
		Audience []string `json:"aud"`
		Expires  int64    `json:"exp"`
		Subject  string   `json:"sub"`
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(body, &claims)
	}
	if err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	ends := time.Unix(claims.Expires, 0)
	switch {
	case time.Now().After(ends):
		return fmt.Errorf("it ended at %s, and it is %s", ends.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
	case len(claims.Audience) > 0 && !strings.Contains(strings.Join(claims.Audience, " "), identity.Audience):
		return fmt.Errorf("it is for %s, and not for %s", strings.Join(claims.Audience, ", "), identity.Audience)
	case claims.Subject != "system:serviceaccount:"+o.ID.Namespace+":"+o.ID.Account:
		return fmt.Errorf("it is of %s, and not of account %s in namespace %s", claims.Subject, o.ID.Account, o.ID.Namespace)
	}
	return nil
}

func rootSound(_ context.Context, o Options) error {
	_, err := o.roots()
	return err
}

// planeAnswers connects as the agent does.
func planeAnswers(ctx context.Context, o Options) error {
	pool, err := o.roots()
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(o.Discovery)
	if err != nil {
		return err
	}
	connection, err := (&tls.Dialer{Config: o.Compliance.Limit(&tls.Config{RootCAs: pool, ServerName: host, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})}).DialContext(ctx, "tcp", o.Discovery)
	if err != nil {
		return err
	}
	return connection.Close()
}

func agentReady(ctx context.Context, o Options) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(o.StatusPort)+"/healthz/ready", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}

// certificateSound looks at what Envoy shows to others.
func certificateSound(ctx context.Context, _ Options) error {
	text, err := admin(ctx, http.MethodGet, "/certs")
	if err != nil {
		return err
	}
	var certs struct {
		Certificates []struct {
			Chain []struct {
				Names []struct {
					URI string `json:"uri"`
				} `json:"subject_alt_names"`
				Expires time.Time `json:"expiration_time"`
			} `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal([]byte(text), &certs); err != nil {
		return err
	}
	for _, certificate := range certs.Certificates {
		for _, one := range certificate.Chain {
			if len(one.Names) > 0 && strings.HasPrefix(one.Names[0].URI, "spiffe://") && time.Now().After(one.Expires) {
				return fmt.Errorf("that of %s ended at %s", one.Names[0].URI, one.Expires.UTC().Format(time.RFC3339))
			}
		}
	}
	return nil
}

func nothingRejected(ctx context.Context, _ Options) error {
	text, err := admin(ctx, http.MethodGet, "/stats?usedonly&filter=update_rejected$")
	if err != nil {
		return err
	}
	if text = strings.TrimSpace(text); text != "" {
		return errors.New(strings.ReplaceAll(text, "\n", ", "))
	}
	return nil
}
