package image

import (
	"net/http"

	"github.com/containerd/errdefs"

	"stockade/api/scope"
	"stockade/engine/httpapi"
)

func (s *Store) pull(http.ResponseWriter, *http.Request, scope.Scope, string, string, string) error {
	return httpapi.NewError(errdefs.ErrNotImplemented, "pull is not built yet")
}

func (s *Store) importTar(http.ResponseWriter, *http.Request, scope.Scope) error {
	return httpapi.NewError(errdefs.ErrNotImplemented, "import is not built yet")
}
