package grantd

import (
	"errors"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/seqpacket"
	"stockade/internal/userns"
	"stockade/priv/peer"
)

var quiet = slog.New(slog.DiscardHandler)

func classOf(err error) helper.Class {
	var e *peer.Error
	if errors.As(err, &e) {
		return e.Class
	}
	if err != nil {
		return helper.Internal
	}
	return ""
}

func TestValidPath(t *testing.T) {
	for p, ok := range map[string]bool{
		"/": true, "/a": true, "/a/b c": true, "/a..b": true,
		"": false, "a": false, "./a": false, "/a/": false, "//a": false, "/a//b": false, "/a/../b": false, "/..": false, "/a/.": false, "/a\x00": false,
		"/" + strings.Repeat("a", 4094): true, "/" + strings.Repeat("a", 4095): false,
	} {
		if err := validPath(p); (err == nil) != ok {
			t.Errorf("%.40q: %v", p, err)
		}
	}
}

func TestBeneath(t *testing.T) {
	for _, test := range []struct {
		folder, p string
		want      bool
	}{{"/", "/a", true}, {"/", "/", false}, {"/a", "/a/b", true}, {"/a/", "/a/b", true}, {"/a", "/a", false}, {"/a", "/ab", false}, {"/a/b", "/a", false}} {
		if got := beneath(test.folder, test.p); got != test.want {
			t.Errorf("%s beneath %s: %v", test.p, test.folder, got)
		}
	}
}

func TestTarget(t *testing.T) {
	s := setting.IDRange{First: 1000000, Count: 3 * setting.BlockSize}
	b1, b2 := s.First+setting.BlockSize, s.First+2*setting.BlockSize
	for _, test := range []struct {
		uid, gid uint32
		ok       bool
	}{
		{b1, b1, true}, {b1 + 65535, b1 + 5, true}, {b2, b2 + 65535, true},
		{s.First, s.First, false}, {s.First + 65535, b1, false}, {b1, b2, false}, {b1, s.First + s.Count, false}, {0, 0, false}, {s.First - 1, b1, false}, {^uint32(0), b1, false},
	} {
		if err := target(s, test.uid, test.gid); (err == nil) != test.ok {
			t.Errorf("%d:%d: %v", test.uid, test.gid, err)
		}
	}
}

func TestMapOf(t *testing.T) {
	ghost := setting.IDRange{First: 1 << 31, Count: 1 << 30}
	const target = 1065536
	for _, own := range []uint32{0, 1, 1000, ghost.Count - 1, ghost.Count, ghost.Count + 7, 1<<32 - 2} {
		maps := mapOf(own, target, ghost)
		shown := func(id uint32) (uint32, bool) {
			found, out := 0, uint32(0)
			for _, m := range maps {
				if id >= m.Inside && uint64(id) < uint64(m.Inside)+uint64(m.Count) {
					found++
					out = m.Outside + id - m.Inside
				}
			}
			if found > 1 {
				t.Errorf("own %d: id %d is in %d lines", own, id, found)
			}
			return out, found == 1
		}
		if got, ok := shown(own); !ok || got != target {
			t.Errorf("own %d is shown as %d, %v", own, got, ok)
		}
		for _, id := range []uint32{0, 1, 999, 1001, target, 1 << 31, own - 1, own + 1} {
			got, ok := shown(id)
			if id != own && ok && !ghost.Contains(got) {
				t.Errorf("own %d: id %d is shown as %d", own, id, got)
			}
			if id != own && !ok && id < ghost.Count {
				t.Errorf("own %d: id %d is not shown", own, id)
			}
		}
		for _, m := range maps {
			if m.Count == 0 {
				t.Errorf("own %d: empty line", own)
			}
		}
	}
	if d := cmp.Diff([]userns.Map{{Inside: 0, Outside: 1 << 31, Count: 1000}, {Inside: 1000, Outside: target, Count: 1}, {Inside: 1001, Outside: 1<<31 + 1001, Count: 1<<30 - 1001}}, mapOf(1000, target, ghost)); d != "" {
		t.Error(d)
	}
}

func TestCheckSettings(t *testing.T) {
	good := setting.Grantd{GateUID: 10, EngineUID: 11, APISockets: []string{"/s"}, Sub: setting.IDRange{First: 100000, Count: 2 * 65536}, Ghost: setting.IDRange{First: 1 << 31, Count: 1 << 30}}
	if err := checkSettings(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*setting.Grantd){
		"zero":                 func(s *setting.Grantd) { *s = setting.Grantd{} },
		"gate is root":         func(s *setting.Grantd) { s.GateUID = 0 },
		"gate is the engine":   func(s *setting.Grantd) { s.GateUID = s.EngineUID },
		"no socket":            func(s *setting.Grantd) { s.APISockets = nil },
		"no ids":               func(s *setting.Grantd) { s.Sub.Count = 0 },
		"store only":           func(s *setting.Grantd) { s.Sub.Count = 65536 },
		"half a block":         func(s *setting.Grantd) { s.Sub.Count += 5 },
		"no ghosts":            func(s *setting.Grantd) { s.Ghost = setting.IDRange{} },
		"ghosts wrap":          func(s *setting.Grantd) { s.Ghost.Count = 1 << 31 },
		"ghosts in containers": func(s *setting.Grantd) { s.Ghost = setting.IDRange{First: 100001, Count: 65536} },
		"containers in ghosts": func(s *setting.Grantd) { s.Ghost = setting.IDRange{First: 50000, Count: 1 << 30} },
		"engine is a ghost":    func(s *setting.Grantd) { s.EngineUID = s.Ghost.First },
		"gate in a container":  func(s *setting.Grantd) { s.GateUID = s.Sub.First },
	} {
		s := good
		change(&s)
		if checkSettings(s) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRequestsAreDescribed(t *testing.T) {
	text, err := os.ReadFile("../../docs/dev/helper-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{}
	for peer, table := range map[string]peer.Table{"gate": s.gateTable(), "engine": s.engineTable()} {
		for op := range table {
			if !strings.Contains(string(text), "`"+op+"` ("+peer) && !strings.Contains(string(text), "`"+op+"` (engine, gate)") {
				t.Errorf("helper-protocol.md does not describe %q from the %s", op, peer)
			}
		}
	}
}

func testRecords(t *testing.T, dir string, max int) *records {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	r, err := load(root, max, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordsAreDurable(t *testing.T) {
	dir := t.TempDir()
	r := testRecords(t, dir, 2)
	rec := record{Tenant: "t", Caller: caller{UID: 1000, GID: 1000, Groups: []uint32{4, 20}}, Path: "/home/a", RO: true, Created: 7}
	id, err := r.add(rec)
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.add(rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.add(rec); classOf(err) != helper.Exhausted {
		t.Errorf("third of two: %v", err)
	}
	for name, data := range map[string]string{tempPrefix + "x": "{", "junk": "{", strings.Repeat("a", 32): `{"version":1}`, strings.Repeat("b", 32): `{"version":9}`} {
		if err := os.WriteFile(path.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := testRecords(t, dir, 2)
	rec.Version, rec.ID = recordVersion, id
	got, err := again.get(id, "t")
	if d := cmp.Diff(rec, got); err != nil || d != "" {
		t.Error(err, d)
	}
	if _, err := os.Lstat(path.Join(dir, tempPrefix+"x")); err == nil {
		t.Error("a half-written file stays")
	}
	if _, err := again.get(id, "u"); classOf(err) != helper.NotFound {
		t.Errorf("another tenant: %v", err)
	}
	if _, err := again.add(rec); classOf(err) != helper.Exhausted {
		t.Errorf("the limit is forgotten: %v", err)
	}
	if list := again.list(""); len(list) != 2 || list[0].ID >= list[1].ID {
		t.Errorf("list %v", list)
	}
	if err := again.drop([]string{id, id, "../x", ""}); err != nil {
		t.Fatal(err)
	}
	if list := again.list(""); len(list) != 1 || list[0].ID != second || len(again.list(second)) != 0 {
		t.Errorf("list after drop %v", list)
	}
	if _, err := testRecords(t, dir, 2).get(id, "t"); classOf(err) != helper.NotFound {
		t.Errorf("dropped: %v", err)
	}
}

func TestMountPoints(t *testing.T) {
	info := strings.Join([]string{
		`22 1 8:1 / / rw - ext4 /dev/a rw`, `23 22 0:5 / /a rw - tmpfs none rw`, `24 23 0:6 / /a/with\040space rw - tmpfs none rw`,
		`25 24 0:7 / /a/with\040space/b rw - tmpfs none rw`, `26 22 0:8 / /ab rw - tmpfs none rw`, `27 23 0:9 / /a/with\040space rw - tmpfs over rw`, `short`, ``,
	}, "\n")
	for folder, want := range map[string][]string{"/a": {"/a/with space", "/a/with space/b"}, "/": {"/a", "/a/with space", "/a/with space/b", "/ab"}, "/b": nil} {
		if d := cmp.Diff(want, mountPoints(info, folder)); d != "" {
			t.Errorf("%s: %s", folder, d)
		}
	}
	if got := rel("/", "/a/b"); got != "a/b" {
		t.Errorf("rel = %q", got)
	}
	if got := rel("/a", "/a/b"); got != "b" {
		t.Errorf("rel = %q", got)
	}
}

func TestSkipsStaySmall(t *testing.T) {
	k := &skips{}
	for range 1000 {
		k.add(strings.Repeat("p", 100), "reason")
	}
	list := k.done()
	size := 0
	for _, s := range list {
		size += len(s.Path) + len(s.Reason)
	}
	if size > maxSkipped+100 || !strings.Contains(list[len(list)-1].Reason, "more submounts") {
		t.Errorf("%d bytes, last %+v", size, list[len(list)-1])
	}
}

// FuzzGrant: what passes the checks is absolute, clean and short, and the tenant printable.
func FuzzGrant(f *testing.F) {
	for _, s := range []string{`{"path":"/a","tenant":"t"}`, `{"path":"/a/../b","tenant":"t","create":true}`, `{"path":"","ro":true,"tenant":""}`, `{"path":"/\u0000","tenant":"\n"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var q helper.Grant
		if seqpacket.Decode(data, &q) != nil || validPath(q.Path) != nil || !validTenant(q.Tenant) {
			return
		}
		if q.Path[0] != '/' || slices.Contains(strings.Split(q.Path, "/"), "..") || len(q.Path) > 4095 || strings.ContainsAny(q.Tenant, "\x00\n\r") || q.Tenant == "" {
			t.Errorf("accepted %q", data)
		}
	})
}

func FuzzUse(f *testing.F) {
	f.Add([]byte(`{"id":"00000000000000000000000000000000","tenant":"t","targetUid":1065536,"targetGid":1065536}`))
	f.Add([]byte(`{"id":"..","tenant":"t","targetUid":-1,"targetGid":4294967296,"recursive":true}`))
	r := setting.IDRange{First: 1000000, Count: 2 * setting.BlockSize}
	f.Fuzz(func(t *testing.T, data []byte) {
		var q helper.Use
		if seqpacket.Decode(data, &q) != nil || target(r, q.TargetUID, q.TargetGID) != nil {
			return
		}
		if q.TargetUID < r.First+setting.BlockSize || q.TargetGID < r.First+setting.BlockSize || q.TargetUID >= r.First+r.Count || q.TargetGID >= r.First+r.Count {
			t.Errorf("accepted %q", data)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"0123456789abcdef0123456789abcdef","tenant":"t","caller":{"uid":1000,"gid":1000,"groups":[4]},"path":"/a","ro":false,"created":1}`))
	f.Add([]byte(`{"version":1,"id":"../../../../../../../../etc/passwd","tenant":"t","path":"a"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data)
		if err == nil && (!validID(rec.ID) || !path.IsAbs(rec.Path) || rec.Tenant == "") {
			t.Errorf("accepted %q", data)
		}
	})
}

func FuzzMountPoints(f *testing.F) {
	f.Add(`24 23 0:6 / /a/with\040space rw - tmpfs none rw`, "/a")
	f.Add(`24 23 0:6 / /a/\056\056/b rw - tmpfs none rw`, "/a")
	f.Fuzz(func(t *testing.T, info, folder string) {
		for _, p := range mountPoints(info, folder) {
			if slices.Contains(strings.Split(p, "/"), "..") || !strings.HasPrefix(p, folder) {
				t.Errorf("%q from %q beneath %q", p, info, folder)
			}
		}
	})
}
