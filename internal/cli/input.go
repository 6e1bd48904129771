package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/slipway-mesh/slipway/internal/install/lifecycle"
	"github.com/slipway-mesh/slipway/internal/install/manifest"
)

// input is what a user gives of an IstioOperator: files and --set, as in istioctl.
type input struct {
	files, sets         []string
	manifests, revision string
	// named are the resources that the files name, if they do.
	named []lifecycle.Owner
	// base stands before the files; nil is nothing.
	base map[string]any
}

func (in *input) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&in.files, "filename", "f", nil, "a file with an IstioOperator; several merge from the left; - is standard input")
	flags.StringArrayVarP(&in.sets, "set", "s", nil, "a value as PATH=VALUE, such as profile=demo or values.global.proxy.logLevel=debug")
	flags.StringVarP(&in.manifests, "manifests", "d", "", "a folder with charts/ and profiles/ in place of the built-in ones")
	flags.StringVar(&in.manifests, "charts", "", "the same as --manifests")
	flags.StringVarP(&in.revision, "revision", "r", "", "the revision of the control plane")
	_ = flags.MarkHidden("charts")
}

// layers reads the files and then the --set values.
func (in *input) layers(stdin io.Reader) ([]manifest.Layer, error) {
	var layers []manifest.Layer
	if in.base != nil {
		layers = append(layers, manifest.Layer{Name: "last installation", Spec: in.base})
	}
	for _, file := range in.files {
		text, err := readFile(stdin, file)
		if err != nil {
			return nil, err
		}
		layer, err := manifest.ParseLayer(file, text)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
		in.name(text)
	}
	var sets []string
	if in.manifests != "" {
		sets = append(sets, "installPackagePath="+in.manifests)
	}
	if in.revision != "" {
		sets = append(sets, "revision="+in.revision)
	}
	sets = append(sets, in.sets...)
	for _, set := range sets {
		base, err := manifest.Resolve(manifest.Options{}, layers...)
		if err != nil {
			return nil, err
		}
		layer, err := manifest.ParseSet(base.Spec, set)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

// name remembers which resource a file names.
func (in *input) name(text []byte) {
	var document struct {
		Metadata struct{ Name, Namespace string }
	}
	if err := yaml.Unmarshal(text, &document); err == nil && document.Metadata.Name != "" {
		in.named = append(in.named, lifecycle.Owner{Namespace: document.Metadata.Namespace, Name: document.Metadata.Name})
	}
}

func readFile(stdin io.Reader, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return text, nil
}

// confirm asks and says whether the answer was yes.
func confirm(in io.Reader, out io.Writer, question string) bool {
	fmt.Fprintf(out, "%s (y/N) ", question)
	var answer string
	_, _ = fmt.Fscanln(in, &answer)
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes")
}
