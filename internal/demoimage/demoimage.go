// Package demoimage makes small images out of the distribution's static busybox, as archives that "docker load" reads:
// for the demonstration and for tests, which have no registry to pull from.
//
// Trust: the busybox binary is the host's own. Invariants: the same binary and options give the same bytes.
// Failure: an error; what was written is then of no use.
package demoimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Busybox is where Debian's busybox-static lies.
const Busybox = "/bin/busybox"

// File is one entry of a layer.
type File struct {
	Name string // without leading slash; a folder ends with one
	Mode int64
	UID  int
	GID  int
	Link string // a symbolic link to it
	Body []byte
}

// Image is one image of an archive.
type Image struct {
	Tags   []string // name:tag
	Config ocispec.ImageConfig
	Layers [][]File
}

// when is the time of all files and images.
var when = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// BusyboxLayer is a root file system with busybox and its applets in /bin.
func BusyboxLayer(busybox string) ([]File, error) {
	body, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("read busybox (package busybox-static): %w", err)
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list applets: %w", err)
	}
	files := []File{
		{Name: "bin/", Mode: 0o755},
		{Name: "bin/busybox", Mode: 0o755, Body: body},
		{Name: "dev/", Mode: 0o755},
		{Name: "etc/", Mode: 0o755},
		{Name: "etc/group", Mode: 0o644, Body: []byte("root:x:0:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n")},
		{Name: "etc/passwd", Mode: 0o644, Body: []byte("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/www:/bin/sh\nuser:x:1000:100:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
		{Name: "etc/shadow", Mode: 0o600, Body: []byte("root:*::0:::::\n")},
		{Name: "home/", Mode: 0o755},
		{Name: "home/user/", Mode: 0o750, UID: 1000, GID: 100},
		{Name: "proc/", Mode: 0o755},
		{Name: "root/", Mode: 0o700},
		{Name: "sys/", Mode: 0o755},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "usr/", Mode: 0o755},
		{Name: "usr/bin/", Mode: 0o755},
		{Name: "usr/bin/env", Mode: 0o777, Link: "/bin/busybox"},
		{Name: "var/", Mode: 0o755},
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" && !strings.Contains(applet, "/") {
			files = append(files, File{Name: "bin/" + applet, Mode: 0o777, Link: "/bin/busybox"})
		}
	}
	return files, nil
}

// Demo is two images: busybox:latest, and stockade/demo:latest, which serves a page on port 8080 as an ordinary user.
func Demo(busybox string) ([]Image, error) {
	base, err := BusyboxLayer(busybox)
	if err != nil {
		return nil, err
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return []Image{
		{Tags: []string{"busybox:latest"}, Config: ocispec.ImageConfig{Env: env, Cmd: []string{"sh"}}, Layers: [][]File{base}},
		{
			Tags: []string{"stockade/demo:latest"},
			Config: ocispec.ImageConfig{
				Env:          append(env, "DEMO=stockade"),
				User:         "www-data",
				WorkingDir:   "/www",
				Cmd:          []string{"httpd", "-f", "-v", "-p", "8080", "-h", "/www"},
				ExposedPorts: map[string]struct{}{"8080/tcp": {}},
				Labels:       map[string]string{"org.opencontainers.image.title": "demo"},
			},
			Layers: [][]File{base, {
				{Name: "www/", Mode: 0o755, UID: 33, GID: 33},
				{Name: "www/index.html", Mode: 0o644, UID: 33, GID: 33, Body: []byte("Hello from a container that is nobody on its host.\n")},
			}},
		},
	}, nil
}

// Write writes the images as one archive.
func Write(w io.Writer, images []Image) error {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	out := tar.NewWriter(w)
	written := map[string]bool{}
	put := func(name string, data []byte) error {
		if written[name] {
			return nil // layers are shared by images
		}
		written[name] = true
		return putFile(out, File{Name: name, Mode: 0o644, Body: data})
	}
	for _, img := range images {
		e := entry{RepoTags: img.Tags}
		config := ocispec.Image{
			Created:  &when,
			Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
			Config:   img.Config,
			RootFS:   ocispec.RootFS{Type: "layers"},
		}
		for i, files := range img.Layers {
			layer, err := Layer(files)
			if err != nil {
				return err
			}
			sum := hexSum(layer)
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.NewDigestFromEncoded(digest.SHA256, sum))
			config.History = append(config.History, ocispec.History{Created: &when, CreatedBy: fmt.Sprintf("demoimage layer %d", i)})
			name := sum + "/layer.tar"
			if err := put(name, layer); err != nil {
				return err
			}
			e.Layers = append(e.Layers, name)
		}
		data, err := json.Marshal(config)
		if err != nil {
			return err
		}
		e.Config = hexSum(data) + ".json"
		if err := put(e.Config, data); err != nil {
			return err
		}
		manifest = append(manifest, e)
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	return errors.Join(put("manifest.json", data), out.Close())
}

// Layer makes the tar of one layer.
func Layer(files []File) ([]byte, error) {
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	for _, f := range files {
		if err := putFile(out, f); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), out.Close()
}

func putFile(out *tar.Writer, f File) error {
	h := &tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Size: int64(len(f.Body)), ModTime: when, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
	case strings.HasSuffix(f.Name, "/"):
		h.Typeflag, h.Size = tar.TypeDir, 0
	}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	if h.Size == 0 {
		return nil
	}
	_, err := out.Write(f.Body)
	return err
}

// WriteDemo writes the archive of Demo.
func WriteDemo(w io.Writer) error {
	images, err := Demo(Busybox)
	if err != nil {
		return err
	}
	return Write(w, images)
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
