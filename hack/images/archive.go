package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// write makes an image of one layer and writes it with all its tags.
func write(file string, i image) error {
	content, err := layer(i)
	if err != nil {
		return err
	}
	one, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return err
	}
	made, err := mutate.AppendLayers(empty.Image, one)
	if err != nil {
		return err
	}
	config, err := made.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = "amd64", "linux"
	config.Config = v1.Config{Entrypoint: i.entrypoint, User: i.user, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}}
	if made, err = mutate.ConfigFile(made, config); err != nil {
		return err
	}
	tags := map[name.Tag]v1.Image{}
	for _, text := range i.tags {
		tag, err := name.NewTag(text)
		if err != nil {
			return err
		}
		tags[tag] = made
	}
	var archive bytes.Buffer
	if err := tarball.MultiWrite(tags, &archive); err != nil {
		return err
	}
	sorted, err := sortTags(&archive)
	if err != nil {
		return err
	}
	return os.WriteFile(file, sorted, 0o644)
}

// sortTags orders the tags in an archive's manifest, which the library writes in the order of a map.
func sortTags(archive io.Reader) ([]byte, error) {
	var out bytes.Buffer
	r, w := tar.NewReader(archive), tar.NewWriter(&out)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			err := w.Close() // it writes the end
			return out.Bytes(), err
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if header.Name == "manifest.json" {
			var manifest tarball.Manifest
			if err := json.Unmarshal(content, &manifest); err != nil {
				return nil, err
			}
			for i := range manifest {
				sort.Strings(manifest[i].RepoTags)
			}
			if content, err = json.Marshal(manifest); err != nil {
				return nil, err
			}
			header.Size = int64(len(content))
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
}

// layer is a tar of the image's files in the order of their names, with no times: the same files are the same bytes.
func layer(i image) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	names := make([]string, 0, len(i.files)+len(i.links))
	dirs := map[string]bool{}
	add := func(name string) {
		names = append(names, name)
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	for name := range i.files {
		add(name)
	}
	for name := range i.links {
		add(name)
	}
	dirs["/tmp"] = true
	for dir := range dirs {
		names = append(names, dir)
	}
	sort.Strings(names)
	for _, name := range names {
		header := &tar.Header{Name: strings.TrimPrefix(name, "/"), Mode: 0o755, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
		var content []byte
		switch {
		case dirs[name]:
			header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
			if name == "/tmp" {
				header.Mode = 0o1777
			}
		case i.links[name] != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, i.links[name]
		default:
			read, err := os.ReadFile(i.files[name])
			if err != nil {
				return nil, err
			}
			content, header.Size = read, int64(len(read))
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return buffer.Bytes(), w.Close()
}
