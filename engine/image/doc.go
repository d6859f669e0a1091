// Package image keeps images: what registries, archives and commits bring, per tenant, and the layers that containers
// stand on.
//
// Blobs (manifests, configurations, compressed layers) lie in containerd's content store, described by containerd's
// metadata database with one isolated namespace per tenant: the bytes are shared on disk, but a tenant sees a blob only
// after having brought all of it. Unpacked layers lie in the engine's store, one folder per chain id, shared by all
// tenants; which image uses which is in records of our own in the same bolt database, and in memory for reading.
//
// Trust: registries, archives and everything in them are hostile; tenants are hostile to each other. Sizes and digests
// are checked against what was announced before anything is used; layers are parsed by package unpack's child only; a
// layer that is there already is used for a tenant's image only when that tenant's own blob has been seen to contain it
// (SECURITY T-204).
// Invariants: an image that is listed has all its layers on disk; a layer is removed only when no image, no container
// and no running operation uses it; a crash leaves temporary folders and leased blobs, never half an image.
// Failure: an operation that fails leaves what was there before. What a pull has fetched is kept for a day, so that
// another try goes on from there.
package image
