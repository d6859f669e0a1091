package identity

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"stockade/api/setting"
)

func TestAssign(t *testing.T) {
	rules := Rules{AdminGID: 50, Containers: setting.IDRange{First: 200000, Count: 65536}}
	for _, tc := range []struct {
		name  string
		in    Caller
		admin bool
		err   error
	}{
		{name: "user", in: Caller{UID: 1000, GID: 1000}},
		{name: "root", in: Caller{UID: 0}, admin: true},
		{name: "primary group", in: Caller{UID: 1000, GID: 50}, admin: true},
		{name: "supplementary group", in: Caller{UID: 1000, GID: 1000, Groups: []uint32{7, 50}}, admin: true},
		{name: "other group", in: Caller{UID: 1000, GID: 1000, Groups: []uint32{7}}},
		{name: "first id of a container", in: Caller{UID: 200000}, err: ErrContainer},
		{name: "last id of a container", in: Caller{UID: 265535}, err: ErrContainer},
		{name: "after the containers", in: Caller{UID: 265536}},
	} {
		got, err := rules.assign(tc.in)
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.err)
			continue
		}
		if err != nil && got.Known() {
			t.Errorf("%s: refused, yet somebody", tc.name)
		}
		if err == nil && (got.Admin != tc.admin || !got.Known()) {
			t.Errorf("%s: %+v", tc.name, got)
		}
	}
	nobody, err := Rules{AdminGID: -1}.assign(Caller{UID: 1000, GID: 1000})
	if err != nil || nobody.Admin {
		t.Errorf("without an administrators' group: %+v, %v", nobody, err)
	}
}

func TestOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := Rules{AdminGID: -1}.Of(conn.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	if c.UID != uint32(os.Getuid()) || c.GID != uint32(os.Getgid()) || c.PID != int32(os.Getpid()) {
		t.Errorf("got %+v", c)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Groups) != len(groups) {
		t.Errorf("groups %v, want %v", c.Groups, groups)
	}
}
