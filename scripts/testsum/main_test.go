package main

import (
	"strings"
	"testing"
)

func TestSum(t *testing.T) {
	const one = `{"Action":"run","Package":"p","Test":"A"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}
{"Action":"run","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}
{"Action":"run","Package":"p","Test":"Dies"}
{"Action":"skip","Package":"p","Test":"S"}
{"Action":"fail","Package":"broken"}
not json`
	const two = `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"B"}`
	s := sum{results: map[id]string{}, rerun: map[id]bool{}}
	for _, suite := range []string{one, two} {
		if err := s.add(strings.NewReader(suite)); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	if s.print(&b, []string{"vet"}) {
		t.Error("a failure was taken for success")
	}
	want := `failed at first, passed when run again: p.A
failed: broken
failed: p.Dies
failed: vet
2 passed, 3 failed, 1 skipped
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}
