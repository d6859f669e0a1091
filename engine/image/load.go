package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// maxFiles bounds the files of an archive.
const maxFiles = 10000

// maxArchive bounds the bytes of an archive after decompression.
const maxArchive = 256 << 30

func (s *Store) load(w http.ResponseWriter, r *http.Request, sc scope.Scope) error {
	out := newStream(w)
	var words []string
	for _, v := range r.URL.Query()["platform"] {
		words = append(words, platformWord(v))
	}
	if len(words) > 1 {
		return httpapi.NewError(errdefs.ErrInvalidArgument, "load one platform at a time")
	}
	warn := func(text string) { out.text("Warning: " + text + "\n") }
	recs, err := s.loadArchive(r.Context(), sc.Tenant, r.Body, strings.Join(words, ""), warn)
	for _, l := range recs {
		if len(l.names) == 0 {
			out.text(fmt.Sprintf("Loaded image ID: %s\n", l.rec.ID))
		}
		for _, n := range familiar(l.names) {
			out.text(fmt.Sprintf("Loaded image: %s\n", n))
		}
		s.event(sc.Tenant, events.ActionLoad, l.rec, "")
	}
	return out.fail(err)
}

// loaded is an image that an archive brought, with the names that it had there.
type loaded struct {
	rec   *record
	names []string
}

// bundle is an archive whose files have become blobs.
type bundle struct {
	s     *Store
	ctx   context.Context //nolint:containedctx // lives as long as one loadArchive, whose lease it carries
	files map[string]ocispec.Descriptor
	links map[string]string
}

// loadArchive takes in an archive of docker save, old or new, or an OCI image layout. warn is told what is left out of
// layers.
func (s *Store) loadArchive(ctx context.Context, tenant string, body io.Reader, platform string, warn func(text string)) (out []loaded, _ error) {
	want, word, err := wanted(platform)
	if err != nil {
		return nil, err
	}
	lctx, release, err := s.lease(ctx, tenant, false)
	if err != nil {
		return nil, err
	}
	defer release(false)
	b := &bundle{s: s, ctx: lctx, files: map[string]ocispec.Descriptor{}, links: map[string]string{}}
	if err := b.unpack(body); err != nil {
		return nil, err
	}
	found, err := b.images(want, word, platform != "")
	if err != nil {
		return nil, err
	}
	for _, c := range found {
		c.warn = warn
		rec, err := s.register(lctx, tenant, c)
		if err != nil {
			return out, err
		}
		out = append(out, loaded{rec, c.names})
	}
	return out, nil
}

func badArchive(format string, a ...any) error {
	return httpapi.NewError(errdefs.ErrInvalidArgument, "invalid image archive: "+format, a...)
}

// unpack makes a blob of each file. Nothing is written under a name from the archive.
func (b *bundle) unpack(body io.Reader) error {
	plain, err := gunzip(body)
	if err != nil {
		return err
	}
	tr := tar.NewReader(&limited{r: plain, left: maxArchive})
	attempt := rand.Text()
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return badArchive("%v", err)
		}
		if n > maxFiles {
			return badArchive("more than %d entries", maxFiles)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			for k := range h.PAXRecords {
				if strings.HasPrefix(k, "GNU.sparse.") {
					return badArchive("sparse file %q", clip(name)) // SECURITY(T-402)
				}
			}
			desc, err := b.s.ingest(b.ctx, fmt.Sprintf("load-%s-%d", attempt, n), tr)
			if err != nil {
				return err
			}
			b.files[name] = desc
		case tar.TypeSymlink:
			// Old archives link equal layers to each other.
			b.links[name] = path.Clean("/" + path.Join(path.Dir(name), h.Linkname))[1:]
		case tar.TypeLink:
			b.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
	_, err = io.Copy(io.Discard, plain)
	return err
}

// gunzip undoes gzip, which docker load accepts around an archive.
func gunzip(r io.Reader) (io.Reader, error) {
	buf := bufio.NewReaderSize(r, 64<<10)
	if head, err := buf.Peek(2); err != nil || head[0] != 0x1f || head[1] != 0x8b {
		return buf, nil
	}
	z, err := gzip.NewReader(buf)
	if err != nil {
		return nil, badArchive("%v", err)
	}
	return z, nil
}

// limited is an error, not an end, beyond its bytes.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n, badArchive("too large")
	}
	return n, err
}

// file finds a blob by the name of its file in the archive.
func (b *bundle) file(name string) (ocispec.Descriptor, bool) {
	name = path.Clean("/" + name)[1:]
	for range 5 {
		if d, ok := b.files[name]; ok {
			return d, true
		}
		name = b.links[name]
	}
	return ocispec.Descriptor{}, false
}

func (b *bundle) read(name string) ([]byte, error) {
	d, ok := b.file(name)
	if !ok {
		return nil, badArchive("no file %q", clip(name))
	}
	return b.s.readBlob(b.ctx, d)
}

// images finds out which images the archive has. docker save writes both forms since 25.0; the Docker one has the names.
func (b *bundle) images(want platforms.MatchComparer, word string, strict bool) ([]candidate, error) {
	if _, ok := b.file("manifest.json"); ok {
		return b.dockerImages(want, strict)
	}
	if _, ok := b.file("index.json"); ok {
		return b.layoutImages(want, word)
	}
	return nil, badArchive("neither manifest.json nor index.json")
}

func (b *bundle) dockerImages(want platforms.MatchComparer, strict bool) (out []candidate, _ error) {
	data, err := b.read("manifest.json")
	if err != nil {
		return nil, err
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, badArchive("manifest.json: %v", err)
	}
	for _, item := range list {
		if len(item.Layers) > maxLayers {
			return nil, badArchive("more than %d layers", maxLayers)
		}
		config, err := b.read(item.Config)
		if err != nil {
			return nil, err
		}
		c := candidate{config: config}
		for _, name := range item.Layers {
			d, ok := b.file(name)
			if !ok {
				return nil, badArchive("no file %q", clip(name))
			}
			if d.MediaType, err = b.s.layerType(b.ctx, d); err != nil {
				return nil, err
			}
			c.layers = append(c.layers, d)
		}
		cfg, err := parseConfig(config, c.layers)
		if err != nil {
			return nil, err
		}
		if strict && !want.Match(cfg.Platform) {
			continue
		}
		for _, t := range item.RepoTags {
			ref, err := parseTarget(t, "")
			if err != nil {
				return nil, err
			}
			c.names = append(c.names, ref.String())
		}
		if c.manifest, err = b.s.writeImage(b.ctx, config, c.layers); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, httpapi.NewError(errdefs.ErrNotFound, "no image for the requested platform in the archive")
	}
	return out, nil
}

// layerType looks at a layer's first bytes for its media type.
func (s *Store) layerType(ctx context.Context, d ocispec.Descriptor) (string, error) {
	ra, err := s.blobs.ReaderAt(ctx, d)
	if err != nil {
		return "", err
	}
	defer ra.Close()
	var head [4]byte
	if _, err := ra.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case head[0] == 0x1f && head[1] == 0x8b:
		return ocispec.MediaTypeImageLayerGzip, nil
	case string(head[:]) == "\x28\xb5\x2f\xfd":
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return ocispec.MediaTypeImageLayer, nil
}

// blob finds a blob of an image layout; its file must contain what its name says.
func (b *bundle) blob(desc ocispec.Descriptor) error {
	got, ok := b.file(path.Join("blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
	switch {
	case !ok:
		return badArchive("blob %s is missing", desc.Digest)
	case got.Digest != desc.Digest || got.Size != desc.Size:
		return badArchive("blob %s has another digest or size", desc.Digest) // SECURITY(T-403)
	}
	return nil
}

func (b *bundle) layoutImages(want platforms.MatchComparer, word string) (out []candidate, _ error) {
	data, err := b.read("index.json")
	if err != nil {
		return nil, err
	}
	top := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
	_, index, err := parseDocument(top, data)
	if err != nil {
		return nil, err
	}
	get := func(d ocispec.Descriptor) ([]byte, error) {
		if err := b.blob(d); err != nil {
			return nil, err
		}
		return b.s.readBlob(b.ctx, d)
	}
	var mismatch error
	for _, entry := range index.Manifests {
		if entry.Annotations["vnd.docker.reference.type"] != "" || entry.Platform != nil && !want.Match(*entry.Platform) {
			continue
		}
		c, err := b.layoutImage(entry, get, want, word)
		if errdefs.IsNotFound(err) {
			mismatch = err
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		if mismatch == nil {
			mismatch = httpapi.NewError(errdefs.ErrNotFound, "no image for %s in the archive", word)
		}
		return nil, mismatch
	}
	return out, nil
}

func (b *bundle) layoutImage(entry ocispec.Descriptor, get getter, want platforms.MatchComparer, word string) (candidate, error) {
	desc, _, m, err := descend(entry, get, want, word)
	if err != nil {
		return candidate{}, err
	}
	c := candidate{manifest: ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}, layers: m.Layers}
	if c.config, err = get(m.Config); err != nil {
		return c, err
	}
	for _, l := range m.Layers {
		if err := b.blob(l); err != nil {
			return c, err
		}
	}
	if err := b.s.setLabels(b.ctx, desc.Digest, refLabels(*m)); err != nil {
		return c, err
	}
	for _, key := range []string{"io.containerd.image.name", ocispec.AnnotationRefName} {
		// A bare tag is no name; the image is loaded without one.
		name := entry.Annotations[key]
		if name == "" || key == ocispec.AnnotationRefName && !strings.ContainsAny(name, ":/") {
			continue
		}
		ref, err := parseTarget(name, "")
		if err != nil {
			return c, err
		}
		c.names = []string{ref.String()}
		c.digests = []string{reference.TrimNamed(ref).Name() + "@" + entry.Digest.String()}
		break
	}
	return c, nil
}
