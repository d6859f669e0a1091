package compat

import (
	"archive/tar"
	"bytes"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"stockade/internal/demoimage"
)

// fileScenarios copy files into containers and out of them.
func fileScenarios() []Scenario {
	return []Scenario{
		{"copy", []Step{
			docker("run --name {n} busybox sh -c 'mkdir /d; echo in > /d/f; ln -s /d/f /link; ln -s /d /dirlink; echo x > /root/own'"),
			docker("cp {n}:/d/f -").noOutput(),
			docker("cp {n}:/nosuch -"),
			docker("cp {n}:/d/f/x -"),
			docker("cp - {n}:/d").with(tarball(file{"new", "content"})),
			docker("cp - {n}:/nosuch").with(tarball(file{"new", "content"})),
			docker("cp - {n}:/d/f").with(tarball(file{"new", "content"})),
			docker("cp - none-such:/").with(tarball()),
			docker("cp none-such:/x -"),
			docker("start -a {n}"),
			head("/containers/{n}/archive?path=/d"),
			head("/containers/{n}/archive?path=/nosuch"),
			get("/containers/{n}/archive?path=/d/new").noOutput(),
			get("/containers/{n}/archive?path=/nosuch"),
			get("/containers/{n}/archive?path=/d/f/x"),
			get("/containers/{n}/archive?path=../../d/new").noOutput(),
			get("/containers/{n}/archive?path=/dirlink/").noOutput(),
			call("PUT", "/containers/{n}/archive?path=/d", "").with(tarball(file{"second", "content"})),
			call("PUT", "/containers/{n}/archive?path=/nosuch", "").with(tarball(file{"x", "content"})),
			call("PUT", "/containers/{n}/archive?path=/d/new", "").with(tarball(file{"x", "content"})),
			call("PUT", "/containers/{n}/archive?path=/d", "").with([]byte("this is no archive at all")),
			call("PUT", "/containers/{n}/archive", "").with(tarball(file{"x", "content"})),
			call("PUT", "/containers/{n}/archive?path=/&noOverwriteDirNonDir=1", "").with(tarball(file{"d", "a file over a folder"})),
			docker("diff {n}").anyOrder(),
			docker("diff none-such"),
			get("/containers/{n}/changes"),
			docker("export {n}").noOutput(),
			docker("export none-such"),
			get("/containers/{n}/export").noOutput(),
			call("PUT", "/containers/{n}/archive?path=/", "").with(tarball(file{"../../escape", "content"})),
		}},
		{"copy-running", []Step{
			docker("run -d --name {n} -v {n}:/v --tmpfs /t busybox sleep 1000"),
			docker("cp - {n}:/v").with(tarball(file{"f", "content\n"})),
			docker("exec {n} cat /v/f"),
			docker("cp - {n}:/tmp").with(tarball(file{"g", "more\n"})),
			docker("exec {n} sh -c 'cat /tmp/g; stat -c \"%u %g %a\" /tmp/g'"),
			docker("cp {n}:/proc/self/status -").noOutput(),
			docker("cp {n}:/etc/hostname -").noOutput(),
			docker("diff {n}").anyOrder(),
			docker("run --name {n}-ro --read-only busybox true"),
			docker("cp - {n}-ro:/tmp").with(tarball(file{"g", "more\n"})),
			docker("run -d --name {n}-vro -v {n}:/v:ro busybox sleep 1000"),
			docker("cp - {n}-vro:/v").with(tarball(file{"h", "more\n"})),
		}},
		{"diff", []Step{
			docker("run --name {n} busybox sh -c 'rm /bin/yes; echo x >> /etc/passwd; mkdir -p /a/b; touch /a/b/c'"),
			docker("diff {n}").anyOrder(),
			docker("create --name {n}-new busybox"),
			docker("diff {n}-new"),
			get("/containers/{n}-new/changes"),
		}},
	}
}

type file struct{ name, text string }

// tarball is an archive of files of root.
func tarball(files ...file) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.text)), ModTime: time.Unix(1700000000, 0)}
		// Writing to memory fails for headers that cannot be, only.
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// archive is what docker load reads: one small image with the name.
func archive(name string) []byte {
	var b bytes.Buffer
	err := demoimage.Write(&b, []demoimage.Image{{Tags: []string{name + ":latest"}, Config: ocispec.ImageConfig{Cmd: []string{"x"}},
		Layers: [][]demoimage.File{{{Name: "f", Mode: 0o644, Body: []byte("x")}}}}})
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}
