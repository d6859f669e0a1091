package mountd

import (
	"os"
	"path"
	"strings"
	"testing"

	"stockade/api/helper"
	"stockade/api/setting"
	"stockade/internal/boot"
	"stockade/internal/seqpacket"
	"stockade/priv/peer"
)

func TestStorePath(t *testing.T) {
	for _, test := range []struct {
		item helper.CloneItem
		want string // empty: refused
	}{
		{helper.CloneItem{Kind: helper.KindLayer, Name: "a-1"}, "layers/a-1/fs"},
		{helper.CloneItem{Kind: helper.KindRW, Name: "0.b"}, "rw/0.b"},
		{helper.CloneItem{Kind: helper.KindVolume, Name: "v_1"}, "volumes/v_1/data"},
		{helper.CloneItem{Kind: helper.KindVolume, Name: strings.Repeat("a", 128)}, "volumes/" + strings.Repeat("a", 128) + "/data"},
		{helper.CloneItem{Kind: helper.KindVolume, Name: strings.Repeat("a", 129)}, ""},
		{helper.CloneItem{}, ""},
		{helper.CloneItem{Kind: helper.KindRW}, ""},
		{helper.CloneItem{Name: "a"}, ""},
		{helper.CloneItem{Kind: "rw/x", Name: "a"}, ""},
		{helper.CloneItem{Kind: helper.KindRW, Name: "."}, ""},
		{helper.CloneItem{Kind: helper.KindRW, Name: ".."}, ""},
		{helper.CloneItem{Kind: helper.KindRW, Name: ".a"}, ""},
		{helper.CloneItem{Kind: helper.KindRW, Name: "a/b"}, ""},
		{helper.CloneItem{Kind: helper.KindRW, Name: "A"}, ""},
		{helper.CloneItem{Kind: helper.KindRW, Name: "a b"}, ""},
		{helper.CloneItem{Kind: helper.KindRW, Name: "ä"}, ""},
	} {
		got, err := storePath(test.item)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%+v: %q, %v; want %q", test.item, got, err, test.want)
		}
	}
}

func TestWithin(t *testing.T) {
	r := setting.IDRange{First: 100, Count: 10}
	for _, test := range []struct {
		first, count uint32
		want         bool
	}{{100, 10, true}, {105, 5, true}, {99, 1, false}, {105, 6, false}, {110, 1, false}, {0, ^uint32(0), false}, {100, ^uint32(0), false}} {
		if got := within(r, test.first, test.count); got != test.want {
			t.Errorf("%d+%d: %v", test.first, test.count, got)
		}
	}
}

func TestRequestsAreDescribed(t *testing.T) {
	text, err := os.ReadFile("../../docs/dev/helper-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{}
	for peer, table := range map[string]peer.Table{"engine": s.engineTable(), "grantd": s.grantdTable()} {
		for op := range table {
			if !strings.Contains(string(text), "### `"+op+"` ("+peer) {
				t.Errorf("helper-protocol.md does not describe %q from %s", op, peer)
			}
		}
	}
}

func TestZeroSettingsRefused(t *testing.T) {
	if _, err := newServer(setting.Mountd{}, boot.Files{}); err == nil {
		t.Error("zero settings were accepted")
	}
}

// FuzzClone: whatever is asked, the path stays one folder beneath its kind.
func FuzzClone(f *testing.F) {
	for _, s := range []string{`{"items":[{"kind":"layers","name":"one"}]}`, `{"items":[{"kind":"rw","name":"..","ro":true}]}`,
		`{"items":[{"kind":"volumes","name":"a/../b"}]}`, `{"items":null}`, `{"items":[{"kind":"layers/..","name":"x"}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var q helper.Clone
		if seqpacket.Decode(data, &q) != nil {
			return
		}
		for _, item := range q.Items {
			p, err := storePath(item)
			if err != nil {
				continue
			}
			if path.Clean(p) != p || path.IsAbs(p) || !strings.HasPrefix(p, item.Kind+"/"+item.Name) || strings.Count(p, "/") > 2 || strings.Contains(p, "..") && !strings.Contains(item.Name, "..") {
				t.Errorf("%+v became %q", item, p)
			}
		}
	})
}
