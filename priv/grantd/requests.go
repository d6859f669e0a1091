package grantd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/failpoint"
	"stockade/internal/seqpacket"
	"stockade/priv/peer"
)

// grant (from the gate) records that the client at the other end of fds[0] can reach a path.
func (s *server) grant(_ context.Context, q helper.Grant, fds []*os.File) (helper.GrantDone, []*os.File, error) {
	none := helper.GrantDone{}
	if !validTenant(q.Tenant) {
		return none, nil, peer.Errorf(helper.Invalid, "tenant %.64q", q.Tenant)
	}
	c, err := s.identify(fds[0])
	if err != nil {
		return none, nil, err
	}
	src, err := s.open(c, q.Path, q.Create)
	if err != nil {
		return none, nil, err
	}
	defer src.file.Close()
	if err := s.mappable(c, src, q.Path); err != nil {
		return none, nil, err
	}
	id, err := s.records.add(record{Tenant: q.Tenant, Caller: c, Path: q.Path, RO: q.RO, SubRW: q.RO && q.SubRW, Created: time.Now().Unix()})
	if err != nil {
		return none, nil, err
	}
	return helper.GrantDone{ID: id, Dir: src.dir, UID: c.UID}, nil, nil
}

// mappable refuses what no container could be shown: whether a file system can be id-mapped, only the kernel knows. The
// mount that is made for the question goes at once.
func (s *server) mappable(c caller, src source, p string) error {
	someone := s.set.Sub.First + setting.BlockSize // any id of a container's
	ns, err := idMap(c, someone, someone, s.set.Ghost)
	if err != nil {
		return fmt.Errorf("id map: %w", err)
	}
	defer ns.Close()
	mount, err := s.mounter.bind(src.file, ns, true)
	var refusal *peer.Error
	switch {
	case errors.As(err, &refusal) && refusal.Class == helper.Invalid:
		return peer.Errorf(helper.Invalid, "the kernel cannot show files of this file system with a container's ids, which is so for its own in /proc, /sys and /dev: "+
			"bind another folder, or copy what is needed into a volume")
	case err != nil:
		return named(err, p)
	}
	return mount.Close()
}

// use (from the engine) opens a grant again as its owner and returns mounts of it for one container.
func (s *server) use(_ context.Context, q helper.Use, _ []*os.File) (helper.UseDone, []*os.File, error) {
	none := helper.UseDone{}
	rec, err := s.records.get(q.ID, q.Tenant)
	if err != nil {
		return none, nil, err
	}
	if err := target(s.set.Sub, q.TargetUID, q.TargetGID); err != nil {
		return none, nil, err
	}
	if err := s.mayCall(rec.Caller); err != nil {
		return none, nil, err // the settings have changed since the grant
	}
	// SECURITY(T-701): the path is opened anew with the person's rights of now; what was there at grant time is no right.
	src, err := s.open(rec.Caller, rec.Path, false)
	if err != nil {
		return none, nil, err
	}
	defer src.file.Close()
	failpoint.Hit("grantd.use.opened")
	ns, err := idMap(rec.Caller, q.TargetUID, q.TargetGID, s.set.Ghost)
	if err != nil {
		return none, nil, fmt.Errorf("id map: %w", err)
	}
	defer ns.Close()
	mount, err := s.mounter.bind(src.file, ns, rec.RO || q.RO)
	if err != nil {
		return none, nil, named(err, rec.Path)
	}
	done := helper.UseDone{Dir: src.dir, Mounts: []string{"."}}
	mounts := []*os.File{mount}
	if q.Recursive && src.dir {
		ro := rec.RO && !rec.SubRW || q.RO && !q.SubRW
		if mounts, err = s.useSubmounts(rec.Caller, src, ns, ro, &done, mounts); err != nil {
			seqpacket.CloseAll(mounts)
			return none, nil, err
		}
	}
	return done, mounts, nil
}

// useSubmounts appends the mounts beneath src; those that cannot be shown are named in done.Skipped.
func (s *server) useSubmounts(c caller, src source, ns *os.File, ro bool, done *helper.UseDone, mounts []*os.File) ([]*os.File, error) {
	skipped := &skips{}
	subs, err := s.submounts(c, src, skipped)
	if err != nil {
		return mounts, err
	}
	defer func() {
		for _, sub := range subs {
			sub.file.Close()
		}
	}()
	size := 0
	for _, sub := range subs {
		if size += len(sub.path); size > maxSkipped {
			skipped.add(sub.path, "too many submounts")
			continue
		}
		mount, err := s.mounter.bind(sub.file, ns, ro)
		var refusal *peer.Error
		if errors.As(err, &refusal) {
			skipped.add(sub.path, refusal.Text)
			continue
		}
		if err != nil {
			return mounts, err
		}
		mounts = append(mounts, mount)
		done.Mounts = append(done.Mounts, sub.path)
	}
	done.Skipped = skipped.done()
	return mounts, nil
}

// named puts the path before the text of a refusal of mountd's.
func named(err error, p string) error {
	var refusal *peer.Error
	if errors.As(err, &refusal) {
		return peer.Errorf(refusal.Class, "bind source %s: %s", p, refusal.Text)
	}
	return err
}

func (s *server) drop(_ context.Context, q helper.Drop, _ []*os.File) (helper.None, []*os.File, error) {
	if len(q.IDs) > pageSize {
		return helper.None{}, nil, peer.Errorf(helper.Invalid, "%d ids, the limit is %d", len(q.IDs), pageSize)
	}
	return helper.None{}, nil, s.records.drop(q.IDs)
}

func (s *server) list(_ context.Context, q helper.ListGrants, _ []*os.File) (helper.GrantList, []*os.File, error) {
	return helper.GrantList{Grants: s.records.list(q.After)}, nil, nil
}
