package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

// maxDownloads is how many layers one pull fetches at a time.
const maxDownloads = 3

func (s *Store) pull(w http.ResponseWriter, r *http.Request, sc scope.Scope, from, tag, platform string) error {
	named, err := parseSource(from, tag)
	if err != nil {
		return err
	}
	auth, err := parseAuth(r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return err
	}
	out := newStream(w)
	rec, err := s.fetch(r.Context(), sc.Tenant, named, auth, platformWord(platform), out)
	if err != nil {
		return out.fail(pullError(named, err))
	}
	attrs := map[string]string{"name": reference.FamiliarName(named)}
	for k, v := range rec.Labels {
		attrs[k] = v
	}
	s.cfg.Event(sc.Tenant, events.ActionPull, reference.FamiliarString(named), attrs)
	return nil
}

// parseSource makes the reference to pull from what the client gives in two parts.
func parseSource(from, tag string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(from)
	if err != nil {
		return nil, badReference(err)
	}
	if tag != "" {
		named = reference.TrimNamed(named)
		if d := digest.Digest(tag); d.Validate() == nil {
			named, err = reference.WithDigest(named, d)
		} else {
			named, err = reference.WithTag(named, tag)
		}
		if err != nil {
			return nil, badReference(err)
		}
	}
	// A digest says everything; a tag beside it is not looked at.
	if c, ok := named.(reference.Canonical); ok {
		return reference.WithDigest(reference.TrimNamed(named), c.Digest())
	}
	return reference.TagNameOnly(named), nil
}

// puller is one pull.
type puller struct {
	s       *Store
	out     *stream
	fetcher remotes.Fetcher
	quiet   bool // nothing new: no line per layer
}

// fetch brings an image from its registry.
func (s *Store) fetch(ctx context.Context, tenant string, named reference.Named, auth registry.AuthConfig, platform string, out *stream) (rec *record, err error) {
	want, word, err := wanted(platform)
	if err != nil {
		return nil, err
	}
	rm, err := s.remote(named, auth)
	if err != nil {
		return nil, err
	}
	defer rm.close()
	ctx, release, err := s.lease(ctx, tenant, true)
	if err != nil {
		return nil, err
	}
	defer func() { release(err != nil) }()

	name, top, err := rm.resolver.Resolve(ctx, named.String())
	if err != nil {
		return nil, err
	}
	if err := checkDescriptor(top, maxJSON); err != nil {
		return nil, err
	}
	p := &puller{s: s, out: out}
	if p.fetcher, err = rm.resolver.Fetcher(ctx, name); err != nil {
		return nil, err
	}
	get := func(d ocispec.Descriptor) ([]byte, error) { return p.small(ctx, d) }
	desc, data, m, err := descend(top, get, want, word)
	if err != nil {
		return nil, err
	}
	c := candidate{layers: m.Layers, digests: []string{reference.TrimNamed(named).Name() + "@" + top.Digest.String()}}
	label := top.Digest.String()
	if t, ok := named.(reference.Tagged); ok {
		c.names, label = []string{named.String()}, t.Tag()
	}
	known := s.has(tenant, m.Config.Digest, append(c.names, c.digests...))
	p.quiet = known
	out.status(label, "Pulling from "+reference.Path(named))

	if c.config, err = get(m.Config); err != nil {
		return nil, err
	}
	if digest.FromBytes(c.config) != m.Config.Digest {
		return nil, badManifest("the configuration does not have the announced digest")
	}
	cfg, err := parseConfig(c.config, c.layers)
	if err != nil {
		return nil, err
	}
	if _, err := s.writeBlob(ctx, m.Config.MediaType, c.config, nil); err != nil {
		return nil, err
	}
	chains := identity.ChainIDs(append([]digest.Digest{}, cfg.RootFS.DiffIDs...))
	defer s.pin(chains)()
	if err := p.layers(ctx, m.Layers, cfg.RootFS.DiffIDs, chains); err != nil {
		return nil, err
	}
	if c.manifest, err = s.writeBlob(ctx, desc.MediaType, data, refLabels(*m)); err != nil {
		return nil, err
	}
	if rec, err = s.register(ctx, tenant, c); err != nil {
		return nil, err
	}
	out.status("", "Digest: "+top.Digest.String())
	if known {
		out.status("", "Status: Image is up to date for "+reference.FamiliarString(named))
	} else {
		out.status("", "Status: Downloaded newer image for "+reference.FamiliarString(named))
	}
	return rec, nil
}

// has tells whether a tenant's image has all of these names and digests.
func (s *Store) has(tenant string, id digest.Digest, names []string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.images[tenant][id]
	if r == nil || r.Gone {
		return false
	}
	have := map[string]bool{}
	for _, n := range append(append([]string{}, r.Names...), r.Digests...) {
		have[n] = true
	}
	for _, n := range names {
		if !have[n] {
			return false
		}
	}
	return true
}

// small fetches a manifest or configuration into memory, never more than was announced.
func (p *puller) small(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if err := checkDescriptor(d, maxJSON); err != nil {
		return nil, err
	}
	rc, err := p.fetcher.Fetch(ctx, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := io.ReadAll(io.LimitReader(rc, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", short(d.Digest), err)
	}
	if int64(len(data)) != d.Size {
		return nil, badManifest("%s does not have the announced size", short(d.Digest))
	}
	return data, nil
}

func (p *puller) step(d ocispec.Descriptor, text string, current, total int64) {
	if !p.quiet {
		p.out.step(short(d.Digest), text, current, total)
	}
}

// layers fetches layers and unpacks each as soon as it is there.
func (p *puller) layers(ctx context.Context, layers []ocispec.Descriptor, diffIDs, chains []digest.Digest) error {
	for _, l := range layers {
		p.step(l, "Pulling fs layer", 0, 0)
	}
	g, ctx := errgroup.WithContext(ctx)
	// One more than downloads: a layer being unpacked need not keep the next from arriving.
	g.SetLimit(maxDownloads + 1)
	slots := make(chan struct{}, maxDownloads)
	for i, l := range layers {
		g.Go(func() error {
			slots <- struct{}{}
			err := p.download(ctx, l)
			<-slots
			if err != nil {
				return err
			}
			started := func() { p.step(l, "Extracting", 0, l.Size) }
			warn := func(text string) { p.out.status("", "Warning: "+short(l.Digest)+": "+text) }
			if err := p.s.ensureLayer(ctx, chains[i], diffIDs[i], l, started, warn); err != nil {
				return fmt.Errorf("failed to register layer: %w", err)
			}
			p.step(l, "Pull complete", 0, 0)
			return nil
		})
	}
	return g.Wait()
}

// download brings one layer, going on where an earlier attempt was interrupted.
func (p *puller) download(ctx context.Context, l ocispec.Descriptor) error {
	l = ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
	ref := "layer-" + l.Digest.String()
	w, err := content.OpenWriter(ctx, p.s.blobs, content.WithRef(ref), content.WithDescriptor(l))
	if errdefs.IsAlreadyExists(err) {
		info, err := p.s.blobs.Info(ctx, l.Digest)
		if err != nil {
			return err
		}
		if info.Size != l.Size {
			return badManifest("size %d of %s", l.Size, short(l.Digest))
		}
		p.step(l, "Already exists", 0, 0)
		return nil
	}
	if err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	defer w.Close()
	rc, err := p.fetcher.Fetch(ctx, l)
	if err != nil {
		return fmt.Errorf("fetch layer %s: %w", short(l.Digest), err)
	}
	defer rc.Close()
	counted := &progressReader{ReadCloser: rc, report: func(n int64) { p.step(l, "Downloading", n, l.Size) }}
	if st, err := w.Status(); err == nil {
		counted.n = st.Offset
	}
	if err := content.Copy(ctx, w, counted, l.Size, l.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		if errdefs.IsFailedPrecondition(err) {
			// Wrong bytes: another attempt must not go on from them.
			w.Close()
			err = httpapi.NewError(errdefs.ErrInvalidArgument, "filesystem layer verification failed for digest %s", l.Digest)
			return errors.Join(err, p.s.blobs.Abort(context.WithoutCancel(ctx), ref))
		}
		return fmt.Errorf("fetch layer %s: %w", short(l.Digest), err)
	}
	p.step(l, "Verifying Checksum", 0, 0)
	p.step(l, "Download complete", 0, 0)
	return nil
}

// progressReader reports now and then how far it is. Seeking is passed on, so that a download can be resumed.
type progressReader struct {
	io.ReadCloser
	report func(int64)
	n      int64
	last   time.Time
}

func (r *progressReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	if now := time.Now(); now.Sub(r.last) >= progressEvery {
		r.last = now
		r.report(r.n)
	}
	return n, err
}

// Seek implements io.Seeker where the body does.
func (r *progressReader) Seek(offset int64, whence int) (int64, error) {
	s, ok := r.ReadCloser.(io.Seeker)
	if !ok {
		return 0, errors.New("body is not seekable")
	}
	return s.Seek(offset, whence)
}
