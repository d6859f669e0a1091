package grantd

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"stockade/api/helper"
	"stockade/internal/failpoint"
	"stockade/priv/peer"
)

// record is one grant as it lies on disk, in a file named by its id.
type record struct {
	Version int    `json:"version"` // recordVersion
	ID      string `json:"id"`      // 32 hex digits
	Tenant  string `json:"tenant"`
	Caller  caller `json:"caller"`
	Path    string `json:"path"`
	RO      bool   `json:"ro"`
	SubRW   bool   `json:"subRw,omitempty"` // with RO: what is mounted beneath may be writable
	Created int64  `json:"created"`         // Unix seconds
}

const (
	recordVersion = 1
	tempPrefix    = ".new-"
	pageSize      = 500
)

// records are all grants: in memory, and durably in one folder.
type records struct {
	mu     sync.Mutex
	root   *os.Root
	folder *os.File // to sync
	max    int      // per uid
	byID   map[string]record
	byUID  map[uint32]int
}

// load reads the folder. What is no record is left alone and reported; half-written files are removed.
func load(root *os.Root, max int, log *slog.Logger) (*records, error) {
	folder, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	r := &records{root: root, folder: folder, max: max, byID: map[string]record{}, byUID: map[uint32]int{}}
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, tempPrefix) {
			if err := root.Remove(name); err != nil {
				return nil, fmt.Errorf("records: %w", err)
			}
			continue
		}
		data, err := root.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("records: %w", err)
		}
		rec, err := parseRecord(data)
		if err == nil && rec.ID != name {
			err = errors.New("its name is another's")
		}
		if err != nil {
			log.Error("not a grant record", "file", name, "err", err)
			continue
		}
		r.byID[rec.ID] = rec
		r.byUID[rec.Caller.UID]++
	}
	return r, nil
}

// parseRecord decodes strictly and checks what later code relies on.
func parseRecord(data []byte) (record, error) {
	var rec record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&rec); err != nil {
		return record{}, err
	}
	if rec.Version != recordVersion {
		return record{}, fmt.Errorf("version %d", rec.Version)
	}
	if !validID(rec.ID) || !validTenant(rec.Tenant) {
		return record{}, errors.New("no id or tenant")
	}
	return rec, validPath(rec.Path)
}

func validID(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}

func validTenant(t string) bool {
	return t != "" && len(t) <= 256 && !strings.ContainsFunc(t, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd })
}

// add makes the grant durable and then known.
func (r *records) add(rec record) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.byUID[rec.Caller.UID]; n >= r.max {
		return "", peer.Errorf(helper.Exhausted, "user id %d has %d bind mounts on record, the limit is %d: remove containers that are not needed", rec.Caller.UID, n, r.max)
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	rec.Version, rec.ID = recordVersion, hex.EncodeToString(random[:])
	data, err := json.Marshal(rec)
	if err != nil {
		return "", err
	}
	if err := r.write(rec.ID, data); err != nil {
		return "", fmt.Errorf("record grant: %w", err)
	}
	r.byID[rec.ID] = rec
	r.byUID[rec.Caller.UID]++
	return rec.ID, nil
}

func (r *records) write(name string, data []byte) (err error) {
	temp := tempPrefix + name
	f, err := r.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = r.root.Remove(temp)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	failpoint.Hit("grantd.record.written")
	if err := r.root.Rename(temp, name); err != nil {
		return err
	}
	failpoint.Hit("grantd.record.renamed")
	return r.folder.Sync()
}

// get finds a tenant's grant; another tenant's does not exist.
//
// SECURITY(T-701): a grant cannot be replayed for another tenant.
func (r *records) get(id, tenant string) (record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.byID[id]
	if !ok || rec.Tenant != tenant {
		return record{}, peer.Errorf(helper.NotFound, "no such bind grant: %.64q", id)
	}
	return rec, nil
}

// drop ends grants; unknown ids are none.
func (r *records) drop(ids []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := false
	for _, id := range ids {
		rec, ok := r.byID[id]
		if !ok {
			continue
		}
		if err := r.root.Remove(id); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop grant: %w", err)
		}
		failpoint.Hit("grantd.record.removed")
		changed = true
		delete(r.byID, id)
		if r.byUID[rec.Caller.UID]--; r.byUID[rec.Caller.UID] == 0 {
			delete(r.byUID, rec.Caller.UID)
		}
	}
	if !changed {
		return nil
	}
	return r.folder.Sync()
}

// list returns the page of ids after one.
func (r *records) list(after string) []helper.GrantInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	page := []helper.GrantInfo{}
	for id, rec := range r.byID {
		if id > after {
			page = append(page, helper.GrantInfo{ID: id, Created: rec.Created})
		}
	}
	slices.SortFunc(page, func(a, b helper.GrantInfo) int { return strings.Compare(a.ID, b.ID) })
	return page[:min(len(page), pageSize)]
}
