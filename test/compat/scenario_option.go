package compat

import (
	"slices"
	"strings"
)

// optionScenarios use what the docker command has of options, filters and columns and other scenarios have no need of.
func optionScenarios() []Scenario {
	return []Scenario{
		{"ps-format", []Step{
			docker("run -d --name {n} --label a=b -v {n}:/v -p 127.0.0.1:18932:80 --expose 81/udp busybox sleep 1000"),
			docker("create --name {n}-long busybox sh -c 'echo a very long command line indeed'"),
			docker("ps -a --filter name={n}").anyOrder(),
			docker("ps -a --no-trunc --filter name={n}").anyOrder(),
			docker("ps -as --filter name={n}").anyOrder(),
			docker("ps -aq --filter name={n}"),
			docker("ps -a --filter name={n} --format json").anyOrder(),
			docker("ps -a --filter name={n} --format 'table {{.Names}}\\t{{.Label \"a\"}}\\t{{.Mounts}}\\t{{.Networks}}\\t{{.State}}\\t{{.RunningFor}}'").anyOrder(),
			docker("ps -a --filter name={n} --format {{.NoSuch}}"),
			docker("ps --filter name={n} --filter publish=80 --format {{.Names}}"),
			docker("ps --filter name={n} --filter publish=18932 --format {{.Names}}"),
			docker("ps --filter name={n} --filter publish=80/udp --format {{.Names}}"),
			docker("ps --filter name={n} --filter expose=80-90/udp --format {{.Names}}"),
			docker("ps --filter name={n} --filter expose=nonsense --format {{.Names}}"),
			docker("ps --filter name={n} --filter volume={n} --format {{.Names}}"),
			docker("ps --filter name={n} --filter volume=/v --format {{.Names}}"),
			docker("ps -a --filter name={n} --filter status=running --filter status=created --format {{.Names}}").anyOrder(),
			docker("ps -a --filter name={n} --filter status=dead --format {{.Names}}"),
			docker("ps -a --filter name={n} --filter label=a=b --filter label=nosuch --format {{.Names}}"),
			docker("ps -a --filter name=[ --format {{.Names}}"),
			get("/containers/json?size=1&filters={\"name\":[\"{n}\"]}").same("[0].SizeRw", "[0].State", "[0].Health", "[0].NetworkSettings.Networks.bridge.DNSNames"),
			get("/containers/json?all=1&limit=-1&filters={\"name\":[\"{n}$\"]}").same("[0].Names"),
		}},
		{"stats-columns", []Step{
			docker("run -d --name {n} --memory 32m --pids-limit 30 busybox sleep 1000"),
			docker("stats --no-stream --format 'table {{.Name}}\\t{{.PIDs}}' {n}"),
			docker("stats --no-stream --no-trunc --format '{{.Container}} {{.Name}} {{.ID}}' {n}"),
			docker("stats --no-stream {n}").noOutput(),
			docker("stats --no-stream --format json {n}").noOutput(),
			get("/containers/{n}/stats?stream=0").same(".name", ".memory_stats.limit", ".pids_stats.current", ".pids_stats.limit", ".num_procs", ".storage_stats"),
			get("/containers/{n}/stats?stream=0&one-shot=1").same(".precpu_stats.cpu_usage.total_usage", ".preread"),
			docker("stop -t 0 {n}"),
			get("/containers/{n}/stats?stream=0").same(".name", ".read", ".memory_stats", ".pids_stats", ".networks"),
			get("/containers/{n}/stats?stream=0&one-shot=1").same(".name", ".read"),
			docker("stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}} {{.CPUPerc}} {{.MemPerc}} {{.NetIO}} {{.BlockIO}}' {n}"),
		}},
		{"top-args", []Step{
			docker("run -d --name {n} --user 1000 busybox sh -c 'sleep 1000 & exec sleep 2000'"),
			docker("exec {n} true"),
			docker("top {n} -o pid,args").noOutput(),
			get("/containers/{n}/top?ps_args=-o pid,args").same(".Titles", ".Processes[0][1]", ".Processes[1][1]"),
			get("/containers/{n}/top?ps_args=-eo pid,comm,args").same(".Titles", ".Processes[0][1]", ".Processes[1][2]"),
			get("/containers/{n}/top?ps_args=-ef").same(".Titles"),
			get("/containers/{n}/top?ps_args=axo pid,uid,comm").same(".Titles"),
			get("/containers/{n}/top?ps_args=-o pid=X,comm").same(".Titles"),
			get("/containers/{n}/top?ps_args=--no-headers").noOutput(),
			get("/containers/{n}/top?ps_args=-o comm"),
			get("/containers/{n}/top?ps_args=").same(".Titles", ".Processes[0][7]"),
			get("/containers/{n}/top?ps_args=nonsense"),
			docker("pause {n}"),
			get("/containers/{n}/top?ps_args=-o pid,args").same(".Titles", ".Processes[0][1]"),
			docker("unpause {n}"),
		}},
		{"update-fields", []Step{
			docker("run -d --name {n} --memory 64m --memory-swap 128m busybox sleep 1000"),
			docker("update --cpu-shares 512 {n}"),
			docker("update --cpu-period 50000 --cpu-quota 25000 {n}"),
			docker("update --cpuset-cpus 0 {n}"),
			docker("update --cpuset-mems 0 {n}"),
			docker("update --memory 48m {n}"),
			docker("update --memory-reservation 16m {n}"),
			docker("update --memory-swap 96m {n}"),
			docker("update --pids-limit 30 {n}"),
			docker("update --restart on-failure:3 {n}"),
			docker("inspect -f '{{with .HostConfig}}{{.CpuShares}} {{.CpuPeriod}} {{.CpuQuota}} {{.CpusetCpus}} {{.CpusetMems}} {{.Memory}} {{.MemoryReservation}} {{.MemorySwap}} {{.PidsLimit}} {{.RestartPolicy}}{{end}}' {n}"),
			docker("update --cpus 0.5 {n}"),
			docker("update --pids-limit -1 {n}"),
			docker("update --memory-swap 1m {n}"),
			docker("update --cpuset-cpus 99 {n}"),
			docker("update --cpuset-cpus x {n}"),
			docker("update --cpu-shares 1 {n}"),
			docker("update --cpu-quota 10 {n}"),
			docker("update --cpu-rt-period 1000 {n}"),
			docker("update --restart always:3 {n}"),
			docker("update --memory 50m none-such"),
			docker("update {n}"),
			docker("stop -t 0 {n}"),
			docker("update --memory 40m --cpu-shares 300 --restart no {n}"),
			docker("start {n}"),
			docker("inspect -f '{{.HostConfig.Memory}} {{.HostConfig.CpuShares}} {{.HostConfig.RestartPolicy.Name}} {{.State.Status}}' {n}"),
			post("/containers/{n}/update", `{}`).same(".Warnings"),
			post("/containers/{n}/update", `{"CpuShares":100,"RestartPolicy":{"Name":"unless-stopped"}}`).same(".Warnings"),
			post("/containers/{n}/update", `{"RestartPolicy":{"Name":"no","MaximumRetryCount":1}}`),
			post("/containers/{n}/update", `{"BlkioWeight":5}`),
			post("/containers/{n}/update", `{"CpuPeriod":1}`),
			post("/containers/{n}/update", `{"OomKillDisable":true}`).noOutput(),
			docker("update --memory-reservation 2g {n}"),
			docker("update --memory 1g {n}"),
		}},
		{"wait-conditions", []Step{
			docker("run -d --name {n} busybox sh -c 'sleep 0.7; exit 3'"),
			post("/containers/{n}/wait?condition=next-exit", "").same(".StatusCode"),
			post("/containers/{n}/wait?condition=not-running", "").same(".StatusCode"),
			post("/containers/{n}/wait?condition=", "").same(".StatusCode"),
			post("/containers/create?name={n}-rm", `{"Image":"busybox","Cmd":["sh","-c","sleep 1; exit 4"],"HostConfig":{"AutoRemove":true}}`),
			post("/containers/{n}-rm/start", ""),
			post("/containers/{n}-rm/wait?condition=removed", "").same(".StatusCode"),
			get("/containers/{n}-rm/json"),
			post("/containers/none/wait?condition=removed", ""),
			post("/containers/none/wait?condition=next-exit", ""),
			docker("run -d --rm --name {n}-auto busybox sh -c 'sleep 0.7; exit 5'"),
			docker("wait {n}-auto"),
		}},
		{"attach-ws", []Step{
			docker("run -d -i --name {n} busybox sh -c 'read a; echo got $a; sleep 0.3; echo err >&2'"),
			get("/containers/{n}/attach/ws?stream=1&stdin=1&stdout=1").webSocket("typed\n"),
			docker("logs {n}"),
			docker("run -d -it --name {n}-tty busybox sh -c 'read a; echo got $a'"),
			get("/containers/{n}-tty/attach/ws?stream=1&stdin=1&stdout=1&stderr=1").webSocket("typed\n"),
			docker("run --name {n}-done busybox echo earlier"),
			get("/containers/{n}-done/attach/ws?logs=1&stdout=1").webSocket(""),
			get("/containers/none/attach/ws?stream=1").webSocket(""),
			get("/containers/{n}-done/attach/ws?stream=1").noOutput(),
		}},
		{"attach-several", []Step{
			docker("run -d -i --name {n} busybox sh -c 'read a; echo got $a; sleep 0.2; echo end'"),
			post("/containers/{n}/attach?stream=1&stdin=1&stdout=1&stderr=1", "").hijacked("typed\n").times(3),
			docker("logs {n}"),
			docker("run --name {n}-logs busybox sh -c 'echo one; sleep 0.3; echo two'"),
			post("/containers/{n}-logs/attach?logs=1&stdout=1", "").hijacked("").times(2),
			post("/containers/{n}-logs/attach?logs=1&stdout=1&detachKeys=nonsense", "").hijacked(""),
			post("/containers/{n}-logs/attach", "").hijacked(""),
		}},
		{"exec-tty", []Step{
			docker("run -d --name {n} busybox sleep 1000"),
			post("/containers/{n}/exec", `{"Cmd":["sh","-c","sleep 1; stty size"],"Tty":true,"AttachStdin":true,"AttachStdout":true,"Env":["A=b"],"User":"1000","WorkingDir":"/tmp"}`).as("e"),
			get("/exec/{e}/json").same(".ProcessConfig", ".Running", ".ExitCode", ".Pid", ".CanRemove", ".OpenStdin", ".OpenStdout", ".OpenStderr", ".DetachKeys"),
			post("/exec/{e}/start", `{"Detach":true,"Tty":true}`),
			post("/exec/{e}/resize?h=31&w=77", ""),
			post("/exec/{e}/resize?h=x&w=77", ""),
			post("/exec/{e}/resize?h=1", ""),
			post("/exec/{e}/resize", ""),
			post("/exec/{e}/resize?h=-1&w=1", ""),
			get("/exec/{e}/json").becomes(`"Running":false`).same(".ExitCode", ".Running"),
			post("/exec/{e}/resize?h=1&w=1", ""),
			post("/containers/{n}/exec", `{"Cmd":["sh","-c","sleep 0.2; stty size"],"Tty":true,"AttachStdout":true,"ConsoleSize":[30,90]}`).as("f"),
			post("/exec/{f}/start", `{"Tty":true,"ConsoleSize":[33,99]}`).hijacked(""),
			post("/containers/{n}/exec", `{"Cmd":["true"],"User":"nosuch"}`),
			post("/containers/{n}/exec", `{"Cmd":["true"],"User":"5:nosuch"}`),
			post("/containers/{n}/exec", `{"Cmd":["true"],"DetachKeys":"nonsense"}`),
			post("/containers/{n}/exec", `{"Cmd":["true"],"WorkingDir":"/nosuch"}`).as("h"),
			post("/exec/{h}/start", `{"Detach":true}`),
			get("/exec/{h}/json").same(".ExitCode", ".Running"),
			post("/containers/{n}/exec", `{"Cmd":["true"],"WorkingDir":"relative"}`),
			docker("pause {n}"),
			post("/containers/{n}/exec", `{"Cmd":["true"]}`),
			docker("unpause {n}"),
			docker("stop -t 0 {n}"),
			post("/containers/{n}/exec", `{"Cmd":["true"]}`),
		}},
		{"id-prefix", append(several(17), // so two of them begin alike
			docker("ps -aq --no-trunc --filter ancestor=busybox --filter label={n}").keeping("p", sharedPrefix).noOutput(),
			docker("inspect {p}"),
			docker("inspect -f {{.Name}} {p}"),
			docker("stop {p}"),
			docker("rm {p}"),
			get("/containers/{p}/json"),
			post("/containers/{p}/start", ""),
			get("/containers/0123456789abcdef/json"),
			get("/containers/json?all=1&filters={\"id\":[\"{p}\"],\"label\":[\"none\"]}"),
		)},
	}
}

// several makes containers with the label {n}.
func several(count int) []Step {
	var steps []Step
	for i := range count {
		steps = append(steps, docker("create --label {n} --name {n}-"+string(rune('a'+i))+" busybox true"))
	}
	return steps
}

// sharedPrefix is the beginning that two ids have in common.
func sharedPrefix(out string) string {
	ids := strings.Fields(out)
	slices.Sort(ids)
	for i := 1; i < len(ids); i++ {
		n := 0
		for n < len(ids[i]) && ids[i][n] == ids[i-1][n] {
			n++
		}
		if n > 0 {
			return ids[i][:n]
		}
	}
	return "none"
}
