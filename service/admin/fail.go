package admin

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/massif-fs/massif/service/admin/adminapi"
)

// refuse makes the error of a request that is not granted.
func refuse(code, format string, args ...any) *adminapi.Error {
	return &adminapi.Error{Code: code, Message: fmt.Sprintf(format, args...), Status: statusOf(code)}
}

func invalid(format string, args ...any) *adminapi.Error {
	return refuse(adminapi.CodeInvalid, format, args...)
}

func statusOf(code string) int {
	switch code {
	case adminapi.CodeInvalid:
		return http.StatusBadRequest
	case adminapi.CodeUnauthorized:
		return http.StatusUnauthorized
	case adminapi.CodeForbidden:
		return http.StatusForbidden
	case adminapi.CodeNotFound:
		return http.StatusNotFound
	case adminapi.CodeConflict:
		return http.StatusConflict
	case adminapi.CodeTooMany:
		return http.StatusTooManyRequests
	case adminapi.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusInternalServerError
}

// asRefusal returns the refusal in err; anything else is a failure of the server,
// whose details stay in its log.
func asRefusal(err error) (e *adminapi.Error, ours bool) {
	if errors.As(err, &e) {
		return e, true
	}
	return refuse(adminapi.CodeInternal, "the admin server failed; its log tells why"), false
}
