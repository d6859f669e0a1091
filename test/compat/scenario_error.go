package compat

// errorScenarios ask every endpoint for what does not exist or in a wrong way.
func errorScenarios() []Scenario {
	none := []Step{}
	for _, p := range []string{"json", "top", "logs?stdout=1", "changes", "export", "stats?stream=false", "archive?path=/etc", "attach/ws"} {
		none = append(none, get("/containers/none/"+p))
	}
	for _, p := range []string{"start", "stop", "restart", "kill", "pause", "unpause", "wait", "rename?name=x-y", "resize?h=1&w=1", "attach"} {
		none = append(none, post("/containers/none/"+p, ""))
	}
	none = append(none,
		post("/containers/none/exec", `{"Cmd":["true"]}`),
		post("/containers/none/update", `{}`),
		head("/containers/none/archive?path=/etc"),
		call("PUT", "/containers/none/archive?path=/etc", "").with(tarball()),
		del("/containers/none"),
		post("/commit?container=none", ""),
		post("/commit", ""),
	)
	return []Scenario{
		{"error-no-container", none},
		{"error-no-image", []Step{
			get("/images/none/json"),
			get("/images/none/history"),
			post("/images/none/tag?repo=x", ""),
			del("/images/none"),
			get("/images/none/get"),
			get("/images/UPPER/json"),
			get("/images/a:b:c/json"),
			post("/containers/create", `{"Image":"none-such"}`),
			post("/containers/create", `{"Image":"none-such:tag"}`),
			post("/containers/create", `{"Image":"UPPER"}`),
			post("/containers/create", `{"Image":""}`),
			post("/containers/create", `{"Image":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}`),
			docker("run --pull never none-such"),
			docker("create --pull never none-such:tag"),
			docker("image inspect none-such"),
			docker("history none-such"),
			docker("rmi none-such"),
			docker("rmi -f none-such"),
			docker("tag none-such x"),
		}},
		{"error-no-volume", []Step{
			get("/volumes/none"),
			del("/volumes/none"),
			del("/volumes/none?force=1"),
			docker("volume inspect none"),
			docker("volume rm none"),
			docker("volume rm -f none"),
		}},
		{"error-no-network", []Step{
			get("/networks/none-such"),
			del("/networks/none-such"),
			docker("network inspect none-such"),
			docker("run --rm --name {n} --network none-such busybox true"),
			post("/networks/none-such/connect", `{"Container":"x"}`),
			post("/networks/none-such/disconnect", `{"Container":"x"}`),
		}},
		{"error-paths", []Step{
			get("/nosuch"),
			get("/containers"),
			post("/nosuch", ""),
			post("/containers/json", ""),
			get("/containers/create"),
			del("/containers/json"),
			call("PATCH", "/containers/json", ""),
			call("PUT", "/info", ""),
			get("//nosuch"),
			get("//v9.99/info"),
			get("//v1.1/info"),
			get("//v1.41"),
			get("//v1.41/"),
			get("//"),
			get("//vx/info"),
			get("//_ping"),
			head("//_ping"),
			get("/_ping"),
			get("//version"),
		}},
		{"error-swarm", []Step{
			get("/swarm"), get("/nodes"), get("/services"), get("/tasks"), get("/secrets"), get("/configs"),
			get("/plugins"), get("/plugins/none/json"),
		}},
		{"error-query", []Step{
			docker("run -d --name {n} busybox sleep 1000"),
			post("/containers/{n}/stop?t=x", ""),
			post("/containers/{n}/start?detachKeys=nonsense", ""),
			post("/containers/{n}/kill?signal=", ""),
			post("/containers/{n}/restart?t=x", ""),
			get("/containers/{n}/json?size=nonsense"),
			get("/containers/{n}/archive"),
			get("/containers/{n}/archive?path="),
			get("/events?since=x"),
			get("/events?until=x"),
			get("/events?filters=x"),
			get("/images/json?filters=x"),
			get("/volumes?filters=x"),
			get("/networks?filters=x"),
			post("/containers/prune?filters=x", ""),
			post("/images/prune?filters=x", ""),
			post("/volumes/prune?filters=x", ""),
			post("/networks/prune?filters=x", ""),
			del("/containers/{n}?force=nonsense"),
		}},
	}
}

// bodyScenarios send bodies that are wrong.
func bodyScenarios() []Scenario {
	create := func(body string) Step { return post("/containers/create", body) }
	start := func(name, body string) []Step {
		return []Step{post("/containers/create?name={n}-"+name, body), post("/containers/{n}-"+name+"/start", "")}
	}
	steps := []Step{
		create(``), create(`nonsense`), create(`{`), create(`[]`), create(`null`), create(`"text"`), create(`{}`),
		create(`{"Image":5}`), create(`{"Image":"busybox","Cmd":5}`), create(`{"Image":"busybox","Env":"A=b"}`),
		create(`{"Image":"busybox","Env":["=x"]}`), create(`{"Image":"busybox","HostConfig":5}`),
		create(`{"Image":"busybox","HostConfig":{"Memory":"x"}}`), create(`{"Image":"busybox","HostConfig":{"Memory":1000}}`),
		create(`{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"nonsense"}}}`),
		create(`{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"no","MaximumRetryCount":3}}}`),
		create(`{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}}}`),
		create(`{"Image":"busybox","HostConfig":{"PortBindings":{"x/tcp":[{}]}}}`),
		create(`{"Image":"busybox","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"x"}]}}}`),
		create(`{"Image":"busybox","HostConfig":{"Binds":["x"]}}`), create(`{"Image":"busybox","HostConfig":{"Binds":["/a:b"]}}`),
		create(`{"Image":"busybox","HostConfig":{"Binds":["/a:/b:zz"]}}`), create(`{"Image":"busybox","HostConfig":{"Binds":["v:/"]}}`),
		create(`{"Image":"busybox","HostConfig":{"Binds":["v:/a","w:/a"]}}`), create(`{"Image":"busybox","HostConfig":{"Binds":["-:/a"]}}`),
		create(`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"nosuch","Target":"/a"}]}}`),
		create(`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"volume","Target":"a"}]}}`),
		create(`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"tmpfs","Source":"x","Target":"/a"}]}}`),
		create(`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/nosuch/path","Target":"/a"}]}}`),
		create(`{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Target":"/a"}]}}`),
		create(`{"Image":"busybox","HostConfig":{"CapAdd":["NOSUCH"]}}`), create(`{"Image":"busybox","HostConfig":{"CapDrop":["NOSUCH"]}}`),
		create(`{"Image":"busybox","HostConfig":{"Ulimits":[{"Name":"nosuch","Soft":1,"Hard":1}]}}`),
		create(`{"Image":"busybox","HostConfig":{"NetworkMode":"container:none"}}`), create(`{"Image":"busybox","HostConfig":{"ShmSize":-1}}`),
		create(`{"Image":"busybox","HostConfig":{"NanoCpus":-1}}`), create(`{"Image":"busybox","HostConfig":{"CpuShares":-1}}`),
		create(`{"Image":"busybox","HostConfig":{"CpusetCpus":"x"}}`), create(`{"Image":"busybox","HostConfig":{"OomScoreAdj":5000}}`),
		create(`{"Image":"busybox","HostConfig":{"Dns":["x"]}}`), create(`{"Image":"busybox","HostConfig":{"ExtraHosts":["x"]}}`),
		create(`{"Image":"busybox","StopSignal":"NOSUCH"}`),
		create(`{"Image":"busybox","WorkingDir":"rel"}`), create(`{"Image":"busybox","Hostname":"-bad-"}`),
		create(`{"Image":"busybox","ExposedPorts":{"x":{}}}`), create(`{"Image":"busybox","Healthcheck":{"Test":["CMD"],"Interval":5}}`),
		create(`{"Image":"busybox","Healthcheck":{"Test":["NOSUCH","x"]}}`), create(`{"Image":"busybox","Healthcheck":{"Test":["CMD","x"],"Retries":-1}}`),
		create(`{"Image":"busybox","HostConfig":{"IpcMode":"nosuch"}}`), create(`{"Image":"busybox","HostConfig":{"Runtime":"nosuch"}}`),
		create(`{"Image":"busybox","HostConfig":{"Isolation":"nosuch"}}`), create(`{"Image":"busybox","HostConfig":{"Tmpfs":{"rel":""}}}`),
		create(`{"Image":"busybox","HostConfig":{"Privileged":true}}`), create(`{"Image":"busybox","HostConfig":{"PidMode":"host"}}`),
		create(`{"Image":"busybox","HostConfig":{"NetworkMode":"host"}}`), create(`{"Image":"busybox","HostConfig":{"CapAdd":["SYS_ADMIN"]}}`),
		create(`{"Image":"busybox","HostConfig":{"SecurityOpt":["seccomp=unconfined"]}}`),
		create(`{"Image":"busybox"}{"x":1}`),
		create(`{"Image":"busybox","Unknown":1}`),
		create(`{"image":"busybox"}`),
	}
	var wrong []Step
	for _, body := range []string{``, `nonsense`, `[]`, `{"x":1}`} {
		for _, path := range []string{"/volumes/create", "/containers/{n}/exec", "/containers/{n}/update", "/networks/create", "/commit?container={n}", "/containers/{n}/start", "/containers/{n}/stop?t=0"} {
			wrong = append(wrong, post(path, body))
		}
	}
	text := post("/containers/create", `{"Image":"busybox"}`)
	text.Type = "text/plain"
	bare := text
	bare.Type = ""
	return []Scenario{
		{"body-create", steps},
		{"body-wrong", append([]Step{docker("create --name {n} busybox sleep 1000")}, wrong...)},
		{"body-type", []Step{text, bare}},
		{"body-start", append(append(append(
			start("a", `{"Image":"busybox","Cmd":["nosuch"]}`),
			start("b", `{"Image":"busybox","Cmd":["true"],"User":"nosuch"}`)...),
			start("c", `{"Image":"busybox","Cmd":["true"],"WorkingDir":"/etc/passwd"}`)...),
			start("d", `{"Image":"busybox","Cmd":["true"],"Entrypoint":["/etc"]}`)...)},
		{"body-api-start-body", []Step{
			post("/containers/create?name={n}", `{"Image":"busybox","Cmd":["true"]}`),
			post("/containers/{n}/start", `{"Binds":["/:/x"]}`),
		}},
	}
}
