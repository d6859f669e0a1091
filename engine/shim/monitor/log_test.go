package monitor

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stockade/engine/shim"
)

type entry struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Attrs  map[string]string `json:"attrs"`
	Time   string            `json:"time"`
}

func readEntries(t *testing.T, path string) []entry {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []entry
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var e entry
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			t.Fatalf("line %q: %v", sc.Text(), err)
		}
		list = append(list, e)
	}
	return list
}

func TestLogEntriesAreWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := openLog(shim.Log{Path: path, Attrs: map[string]string{"a": `quote " and \`}})
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{"plain\n", "quote \" back \\ tab \t cr \r bell \a del \x7f\n", "<html> & \u2028 \u2029 äöü 世界\n", "\n"}
	for _, l := range lines {
		w.write(stdout, []byte(l))
	}
	w.write(stderr, []byte("bad \xff byte\n"))
	w.write(stdout, []byte("half"))
	w.write(stderr, []byte("between\n"))
	w.write(stdout, []byte(" line\nrest"))
	w.flush(stdout)
	w.Close()
	var got []string
	for _, e := range readEntries(t, path) {
		if e.Attrs["a"] != `quote " and \` || e.Time == "" {
			t.Errorf("entry %+v lacks its attributes", e)
		}
		got = append(got, e.Stream+":"+e.Log)
	}
	want := make([]string, 0, len(lines)+4)
	for _, l := range lines {
		want = append(want, "stdout:"+l)
	}
	want = append(want, "stderr:bad \ufffd byte\n", "stderr:between\n", "stdout:half line\n", "stdout:rest")
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestLogCutsLongLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := openLog(shim.Log{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 2*maxLine+5) + "\n"
	for i := 0; i < len(long); i += 1000 {
		w.write(stdout, []byte(long[i:min(i+1000, len(long))]))
	}
	w.Close()
	list := readEntries(t, path)
	var all strings.Builder
	for _, e := range list {
		all.WriteString(e.Log)
	}
	if len(list) != 3 || all.String() != long {
		t.Errorf("%d entries with %d bytes, want 3 with %d", len(list), all.Len(), len(long))
	}
}

func TestLogRotation(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files int
		want  int // files that exist in the end
		at    int // lines that arrive at once
	}{{"one file", 1, 1, 1}, {"three files", 3, 3, 1}, {"all at once", 3, 3, 100}} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			w, err := openLog(shim.Log{Path: path, MaxSize: 1000, MaxFile: tc.files})
			if err != nil {
				t.Fatal(err)
			}
			for range 100 / tc.at {
				w.write(stdout, []byte(strings.Repeat("twenty characters...\n", tc.at)))
			}
			w.write(stdout, []byte("last\n"))
			w.Close()
			if list := readEntries(t, path); list[len(list)-1].Log != "last\n" {
				t.Errorf("the last entry is %q", list[len(list)-1].Log)
			}
			found, _ := filepath.Glob(path + "*")
			if len(found) != tc.want {
				t.Errorf("files %v, want %d", found, tc.want)
			}
			for _, f := range found {
				st, err := os.Stat(f)
				if err != nil {
					t.Fatal(err)
				}
				if st.Size() > 1000 {
					t.Errorf("%s has %d bytes, limit 1000", f, st.Size())
				}
				readEntries(t, f)
			}
		})
	}
}
