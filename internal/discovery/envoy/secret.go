package envoy

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// SecretType is the type URL of secrets.
const SecretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Certificate makes a secret of a chain and its key, as PEM.
func Certificate(name string, chain, key []byte) *Resource {
	return NewResource(name, &tls.Secret{Name: name, Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{CertificateChain: inlineBytes(chain), PrivateKey: inlineBytes(key)}}})
}

// Authority makes a secret of the certificates that a peer must be signed by, as PEM.
func Authority(name string, ca []byte) *Resource {
	return NewResource(name, &tls.Secret{Name: name, Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{TrustedCa: inlineBytes(ca)}}})
}

func inlineBytes(text []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: text}}
}
