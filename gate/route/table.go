package route

import (
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/volume"
)

// Parameters that many endpoints share.
var (
	detachKeys = Param{Name: "detachKeys", Kind: Text}
	platform   = Param{Name: "platform", Kind: Text}
	force      = Param{Name: "force", Kind: Bool}
	inside     = Param{Name: "path", Kind: Path, Wrong: "bad parameter: path cannot be empty%.0s", Need: true}
	size       = Param{Name: "size", Kind: Bool}
	stopTime   = Param{Name: "t", Kind: Int, Wrong: noNumber}
	signal     = Param{Name: "signal", Kind: Name}
	rows       = []Param{{Name: "h", Kind: Count, Wrong: "invalid resize height %.64q: invalid syntax", Need: true}, {Name: "w", Kind: Count, Wrong: "invalid resize width %.64q: invalid syntax", Need: true}}
	outputs    = []Param{{Name: "stdout", Kind: Bool}, {Name: "stderr", Kind: Bool}}
	attach     = slices.Concat(outputs, []Param{detachKeys, {Name: "logs", Kind: Bool}, {Name: "stream", Kind: Bool}, {Name: "stdin", Kind: Bool}})
	newName    = Param{Name: "name", Kind: Name, Wrong: "Invalid container name (%.64s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"}
	repo       = Param{Name: "repo", Kind: Ref, Wrong: noReference}
	tag        = Param{Name: "tag", Kind: Ref, Wrong: "invalid tag format%.0s"}
)

// What refusals say of wrong values, in Docker's words.
const (
	noNumber    = "strconv.Atoi: parsing %.64q: invalid syntax"
	noReference = "invalid reference format%.0s"
	noTime      = "invalid timestamp %.64[1]q: invalid seconds %.64[1]q: invalid syntax"
)

// period is a time from and a time to. Docker quotes their names in either way.
func period(quote string) []Param {
	var both []Param
	for _, name := range []string{"since", "until"} {
		both = append(both, Param{Name: name, Kind: Time, Wrong: "invalid value for " + quote + name + quote + ": " + noTime})
	}
	return both
}

func filters(terms ...string) Param { return Param{Name: "filters", Kind: Filter, Values: terms} }

// body makes a Route.Body.
func body[T any]() func() any { return func() any { return new(T) } }

// Why endpoints are missing.
const (
	notYet    = "it is planned, not there yet"
	noBuild   = "image builds are planned, not there yet"
	noSwarm   = "this server is not part of a swarm"
	noPlugins = "plugins would be code with the rights of the server"
	noNetwork = "only the networks bridge and none exist so far"
)

// table is every endpoint of the API, sorted by object. In a path that fits two patterns the first row wins, so rows
// with words stand before rows with names.
var table = slices.Concat(systemRoutes, imageRoutes, containerRoutes, execRoutes, volumeRoutes, networkRoutes, missingRoutes)

var systemRoutes = []Route{
	{Method: "HEAD", Pattern: "/_ping", Op: "SystemPingHead", Role: Anyone, Quiet: true},
	{Method: "GET", Pattern: "/_ping", Op: "SystemPing", Role: Anyone, Quiet: true},
	{Method: "GET", Pattern: "/version", Op: "SystemVersion", Role: Anyone},
	{Method: "GET", Pattern: "/info", Op: "SystemInfo", Role: Anyone},
	{Method: "POST", Pattern: "/auth", Op: "SystemAuth", Role: Anyone, Body: body[registry.AuthConfig]()},
	{Method: "GET", Pattern: "/system/df", Op: "SystemDataUsage", Role: Anyone, Query: []Param{{Name: "type", Kind: Words}, {Name: "verbose", Kind: Bool}}},
	{Method: "GET", Pattern: "/events", Op: "SystemEvents", Role: Anyone, Query: slices.Concat(period("'"), []Param{filters("action", "config", "container", "daemon",
		"event", "id", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume")})},
	// "docker system prune" ends with it. There is no build cache, so there is nothing to choose from.
	{Method: "POST", Pattern: "/build/prune", Op: "BuildPrune", Role: Anyone, Query: []Param{{Name: "all", Kind: Bool}, {Name: "keep-storage", Kind: Ignored},
		{Name: "reserved-space", Kind: Ignored}, {Name: "max-used-space", Kind: Ignored}, {Name: "min-free-space", Kind: Ignored},
		filters("description", "id", "inuse", "label", "label!", "parent", "private", "shared", "type", "until", "unused-for")}},
}

var imageRoutes = []Route{
	{Method: "GET", Pattern: "/images/json", Op: "ImageList", Role: Anyone, Query: []Param{{Name: "all", Kind: Bool}, {Name: "shared-size", Kind: Bool},
		{Name: "digests", Kind: Bool}, {Name: "manifests", Kind: Bool}, {Name: "identity", Kind: Bool}, {Name: "only_ids", Kind: Ignored},
		filters("before", "dangling", "label", "label!", "reference", "since", "until")}},
	{Method: "POST", Pattern: "/images/create", Op: "ImageCreate", Role: Anyone, Stream: Upload, Auth: true, Query: []Param{{Name: "fromImage", Kind: Ref, Wrong: noReference},
		{Name: "fromSrc", Kind: Text}, repo, tag, {Name: "message", Kind: Text}, {Name: "changes", Kind: Words}, platform}},
	{Method: "POST", Pattern: "/images/load", Op: "ImageLoad", Role: Anyone, Stream: Upload, Query: []Param{{Name: "quiet", Kind: Bool}, {Name: "platform", Kind: Words}}},
	{Method: "POST", Pattern: "/images/prune", Op: "ImagePrune", Role: Anyone, Query: []Param{filters("dangling", "label", "label!", "until")}},
	{Method: "GET", Pattern: "/images/search", Op: "ImageSearch", Missing: notYet},
	{Method: "GET", Pattern: "/images/get", Op: "ImageGetAll", Missing: notYet},
	{Method: "GET", Pattern: "/images/{name...}/json", Op: "ImageInspect", Role: Anyone, Query: []Param{{Name: "manifests", Kind: Bool}, platform}},
	{Method: "GET", Pattern: "/images/{name...}/history", Op: "ImageHistory", Role: Anyone, Query: []Param{platform}},
	{Method: "POST", Pattern: "/images/{name...}/tag", Op: "ImageTag", Role: Anyone, Query: []Param{repo, tag, {Name: "force", Kind: Ignored}}},
	{Method: "POST", Pattern: "/images/{name...}/push", Op: "ImagePush", Missing: notYet},
	{Method: "GET", Pattern: "/images/{name...}/get", Op: "ImageGet", Missing: notYet},
	{Method: "GET", Pattern: "/images/{name...}/attestations", Op: "ImageAttestations", Missing: notYet},
	{Method: "DELETE", Pattern: "/images/{name...}", Op: "ImageDelete", Role: Anyone, Query: []Param{force, {Name: "noprune", Kind: Bool}, {Name: "platforms", Kind: Words}}},
}

var containerRoutes = []Route{
	{Method: "GET", Pattern: "/containers/json", Op: "ContainerList", Role: Anyone, Query: []Param{{Name: "all", Kind: Bool}, {Name: "limit", Kind: Int, Wrong: noNumber}, size,
		{Name: "trunc_cmd", Kind: Ignored}, filters("ancestor", "annotation", "before", "exited", "expose", "health", "id", "is-task", "isolation",
			"label", "name", "network", "publish", "since", "status", "volume")}},
	{Method: "POST", Pattern: "/containers/create", Op: "ContainerCreate", Role: Anyone, Query: []Param{newName, platform}, Body: body[container.CreateRequest]()},
	{Method: "POST", Pattern: "/containers/prune", Op: "ContainerPrune", Role: Anyone, Query: []Param{filters("label", "label!", "until")}},
	{Method: "GET", Pattern: "/containers/{id}/json", Op: "ContainerInspect", Role: Anyone, Query: []Param{size}},
	{Method: "GET", Pattern: "/containers/{id}/top", Op: "ContainerTop", Role: Anyone, Query: []Param{{Name: "ps_args", Kind: Options}}},
	{Method: "GET", Pattern: "/containers/{id}/logs", Op: "ContainerLogs", Role: Anyone, Query: slices.Concat(outputs, period(`"`), []Param{{Name: "follow", Kind: Bool},
		{Name: "timestamps", Kind: Bool}, {Name: "details", Kind: Bool}, {Name: "tail", Kind: Text}})},
	{Method: "GET", Pattern: "/containers/{id}/changes", Op: "ContainerChanges", Role: Anyone},
	{Method: "GET", Pattern: "/containers/{id}/export", Op: "ContainerExport", Role: Anyone},
	{Method: "GET", Pattern: "/containers/{id}/stats", Op: "ContainerStats", Role: Anyone, Query: []Param{{Name: "stream", Kind: Bool}, {Name: "one-shot", Kind: Bool}}},
	{Method: "POST", Pattern: "/containers/{id}/resize", Op: "ContainerResize", Role: Anyone, Query: rows},
	{Method: "POST", Pattern: "/containers/{id}/start", Op: "ContainerStart", Role: Anyone, Query: []Param{detachKeys}},
	{Method: "POST", Pattern: "/containers/{id}/stop", Op: "ContainerStop", Role: Anyone, Query: []Param{signal, stopTime}},
	{Method: "POST", Pattern: "/containers/{id}/restart", Op: "ContainerRestart", Role: Anyone, Query: []Param{signal, stopTime}},
	{Method: "POST", Pattern: "/containers/{id}/kill", Op: "ContainerKill", Role: Anyone, Query: []Param{signal}},
	{Method: "POST", Pattern: "/containers/{id}/update", Op: "ContainerUpdate", Role: Anyone, Body: body[container.UpdateConfig](), ZeroBody: true},
	{Method: "POST", Pattern: "/containers/{id}/rename", Op: "ContainerRename", Role: Anyone, Query: []Param{newName}},
	{Method: "POST", Pattern: "/containers/{id}/pause", Op: "ContainerPause", Role: Anyone},
	{Method: "POST", Pattern: "/containers/{id}/unpause", Op: "ContainerUnpause", Role: Anyone},
	{Method: "POST", Pattern: "/containers/{id}/attach", Op: "ContainerAttach", Role: Anyone, Stream: Upgrade, Query: attach},
	{Method: "GET", Pattern: "/containers/{id}/attach/ws", Op: "ContainerAttachWebsocket", Role: Anyone, Stream: WebSocket, Query: attach},
	{Method: "POST", Pattern: "/containers/{id}/wait", Op: "ContainerWait", Role: Anyone, Query: []Param{{Name: "condition", Kind: Enum, Values: []string{"", "not-running", "next-exit", "removed"}, Wrong: "invalid condition: %.64q"}}},
	{Method: "DELETE", Pattern: "/containers/{id}", Op: "ContainerDelete", Role: Anyone, Query: []Param{{Name: "v", Kind: Bool}, force, {Name: "link", Kind: Bool}}},
	{Method: "HEAD", Pattern: "/containers/{id}/archive", Op: "ContainerArchiveInfo", Role: Anyone, Query: []Param{inside}},
	{Method: "GET", Pattern: "/containers/{id}/archive", Op: "ContainerArchive", Role: Anyone, Query: []Param{inside}},
	{Method: "PUT", Pattern: "/containers/{id}/archive", Op: "PutContainerArchive", Role: Anyone, Stream: Upload, Query: []Param{inside,
		{Name: "noOverwriteDirNonDir", Kind: Bool}, {Name: "copyUIDGID", Kind: Bool}}},
	{Method: "POST", Pattern: "/containers/{id}/exec", Op: "ContainerExec", Role: Anyone, Body: body[container.ExecCreateRequest](), ZeroBody: true},
	{Method: "POST", Pattern: "/commit", Op: "ImageCommit", Role: Anyone, Body: body[container.Config](), NoBody: true, Query: []Param{{Name: "container", Kind: Name},
		repo, tag, {Name: "comment", Kind: Text}, {Name: "author", Kind: Text}, {Name: "pause", Kind: Bool}, {Name: "changes", Kind: Words}}},
}

var execRoutes = []Route{
	{Method: "POST", Pattern: "/exec/{id}/start", Op: "ExecStart", Role: Anyone, Stream: Upgrade, Body: body[container.ExecStartRequest](), ZeroBody: true},
	{Method: "POST", Pattern: "/exec/{id}/resize", Op: "ExecResize", Role: Anyone, Query: rows},
	{Method: "GET", Pattern: "/exec/{id}/json", Op: "ExecInspect", Role: Anyone},
}

var volumeRoutes = []Route{
	{Method: "GET", Pattern: "/volumes", Op: "VolumeList", Role: Anyone, Query: []Param{filters("dangling", "driver", "label", "label!", "name")}},
	{Method: "POST", Pattern: "/volumes/create", Op: "VolumeCreate", Role: Anyone, Body: body[volume.CreateRequest](), ZeroBody: true},
	{Method: "POST", Pattern: "/volumes/prune", Op: "VolumePrune", Role: Anyone, Query: []Param{filters("all", "label", "label!")}},
	{Method: "GET", Pattern: "/volumes/{name}", Op: "VolumeInspect", Role: Anyone},
	{Method: "DELETE", Pattern: "/volumes/{name}", Op: "VolumeDelete", Role: Anyone, Query: []Param{force}},
	{Method: "PUT", Pattern: "/volumes/{name}", Op: "VolumeUpdate", Missing: noSwarm},
}

var networkRoutes = []Route{
	{Method: "GET", Pattern: "/networks", Op: "NetworkList", Role: Anyone, Query: []Param{filters("dangling", "driver", "id", "label", "name", "scope", "type")}},
	{Method: "POST", Pattern: "/networks/create", Op: "NetworkCreate", Missing: noNetwork},
	{Method: "POST", Pattern: "/networks/prune", Op: "NetworkPrune", Role: Anyone, Query: []Param{filters("label", "label!", "until")}},
	{Method: "GET", Pattern: "/networks/{id}", Op: "NetworkInspect", Role: Anyone, Query: []Param{{Name: "verbose", Kind: Bool}, {Name: "scope", Kind: Enum, Values: []string{"", "local", "global", "swarm"}}}},
	{Method: "DELETE", Pattern: "/networks/{id}", Op: "NetworkDelete", Missing: noNetwork},
	{Method: "POST", Pattern: "/networks/{id}/connect", Op: "NetworkConnect", Missing: noNetwork},
	{Method: "POST", Pattern: "/networks/{id}/disconnect", Op: "NetworkDisconnect", Missing: noNetwork},
}
