package telemetry

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestRequests(t *testing.T) {
	tel := New("1")
	r, err := tel.AddRequests("admin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tel.AddRequests("admin"); err == nil {
		t.Error("the same requests can be added twice")
	}
	r.Record("GET /v1/things/{id}", 200, 10*time.Millisecond)
	r.Record("GET /v1/things/{id}", 404, time.Millisecond)
	(*Requests)(nil).Record("GET /", 200, 0)
	_, body := fetch(t, serve(t, tel, ServeOptions{})+"/metrics")
	for _, line := range []string{
		`massif_admin_requests_total{route="GET /v1/things/{id}",status="200"} 1`,
		`massif_admin_requests_total{route="GET /v1/things/{id}",status="404"} 1`,
		`massif_admin_request_duration_seconds_bucket{route="GET /v1/things/{id}",le="0.002"} 1`,
		`massif_admin_request_duration_seconds_count{route="GET /v1/things/{id}"} 2`,
	} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("%s is missing in\n%s", line, body)
		}
	}
}

func TestHealth(t *testing.T) {
	var wrong atomic.Pointer[error]
	url := serve(t, New("1"), ServeOptions{Health: func(context.Context) error {
		if err := wrong.Load(); err != nil {
			return *err
		}
		return nil
	}})
	if status, body := fetch(t, url+"/healthz"); status != 200 || body != "ok\n" {
		t.Errorf("%d %q", status, body)
	}
	err := errors.New("the disk is full")
	wrong.Store(&err)
	if status, body := fetch(t, url+"/healthz"); status != 503 || body != "the disk is full\n" {
		t.Errorf("%d %q", status, body)
	}
	if status, body := fetch(t, url+"/"); status != 200 || !strings.Contains(body, "/healthz\n") {
		t.Errorf("%d %q", status, body)
	}
	if status, _ := fetch(t, serve(t, New("1"), ServeOptions{})+"/healthz"); status != 404 {
		t.Errorf("a process that cannot tell its health answers with %d", status)
	}
}
