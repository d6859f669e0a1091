package compat

// streamScenarios read logs and attach.
func streamScenarios() []Scenario {
	return []Scenario{
		{"logs", []Step{
			docker("run --name {n} busybox sh -c 'echo 1; sleep 0.2; echo 2 >&2; sleep 0.2; echo 3; printf tail'"),
			docker("logs {n}"),
			docker("logs --tail 1 {n}"),
			docker("logs --tail 0 {n}"),
			docker("logs -n 2 --timestamps {n}"),
			docker("logs --since 1h {n}"),
			docker("logs --until 1h {n}"),
			docker("logs --details {n}"),
			docker("logs -f {n}"),
			docker("logs --tail x {n}"),
			docker("logs none-such"),
			get("/containers/{n}/logs?stdout=1"),
			get("/containers/{n}/logs?stderr=1"),
			get("/containers/{n}/logs?stdout=1&tail=1"),
			get("/containers/{n}/logs?stdout=1&stderr=1&tail=nonsense"),
			get("/containers/{n}/logs"),
			get("/containers/{n}/logs?stdout=0"),
			get("/containers/{n}/logs?stdout=1&since=nonsense"),
			get("/containers/{n}/logs?stdout=1&since=0&until=0"),
			get("/containers/{n}/logs?stdout=1&follow=1"),
			get("/containers/none/logs?stdout=1"),
			get("/containers/none/logs"),
		}},
		{"logs-follow", []Step{
			docker("run -d --name {n} busybox sh -c 'echo first; sleep 1; echo last'"),
			docker("logs -f {n}"),
			docker("logs {n}"),
		}},
		{"logs-tty", []Step{
			docker("run -t --name {n} busybox sh -c 'echo 1; echo 2 >&2'"),
			docker("logs {n}"),
			get("/containers/{n}/logs?stdout=1&stderr=1"),
		}},
		{"logs-drivers", []Step{
			docker("run --name {n}-none --log-driver none busybox echo x"),
			docker("logs {n}-none"),
			docker("run --name {n}-local --log-driver local busybox echo x"),
			docker("logs {n}-local"),
			docker("run --name {n}-opt --log-opt nosuch=1 busybox echo x"),
			docker("run --name {n}-max --log-opt max-size=10k --log-opt max-file=2 busybox echo x"),
			docker("inspect -f '{{json .HostConfig.LogConfig}}' {n}-max {n}-none"),
		}},
		{"logs-not-started", []Step{
			docker("create --name {n} busybox"),
			docker("logs {n}"),
			docker("logs -f {n}"),
		}},
		{"attach", []Step{
			docker("run -d -i --name {n} busybox sh -c 'read a; echo got $a; exit 6'"),
			docker("attach {n}").with([]byte("line\n")).noOutput(), // Docker may end with the client's input and lose what follows
			docker("attach {n}"),
			docker("attach none-such"),
		}},
		{"attach-api", []Step{
			docker("run -d -i --name {n} busybox cat"),
			post("/containers/{n}/attach?stream=1&stdin=1", "").hijacked("typed\n"),
			docker("logs {n}").becomes("typed"),
			docker("run --name {n}-done busybox sh -c 'echo out; sleep 0.3; echo err >&2'"),
			post("/containers/{n}-done/attach?logs=1&stdout=1", "").hijacked(""),
			post("/containers/{n}-done/attach?logs=1&stdout=1&stderr=1", ""),
			post("/containers/none/attach?stream=1", ""),
			get("/containers/none/attach/ws"),
		}},
		{"attach-paused", []Step{
			docker("run -d --name {n} busybox sleep 1000"),
			docker("pause {n}"),
			docker("attach {n}"),
			docker("unpause {n}"),
		}},
		{"tty", []Step{
			docker("run -t --name {n} busybox sh -c 'stty size; test -t 0 && test -t 1 && echo yes'"),
			docker("run -t --name {n}-term busybox sh -c 'echo $TERM'"),
			docker("exec -t {n} true"),
		}},
		{"big-output", []Step{
			docker("run --name {n} busybox sh -c 'seq 1 20000 | md5sum; head -c 70000 /dev/zero | tr \"\\0\" x | wc -c'"),
			docker("run --name {n}-long busybox sh -c 'head -c 40000 /dev/zero | tr \"\\0\" x'"),
			docker("logs {n}-long"),
			docker("run --name {n}-many busybox seq 1 3000"),
			docker("logs --tail 3 {n}-many"),
		}},
	}
}
