package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// ServeOptions say what Serve serves besides /metrics.
type ServeOptions struct {
	// Pprof serves /debug/pprof: profiles show what the process does and holds,
	// so it is off unless asked for.
	Pprof bool
	// Health, if not nil, is asked for each GET /healthz: nil is answered with 200,
	// an error with 503 and its text. It may be called concurrently.
	Health func(ctx context.Context) error
	// Logger gets errors of the server; nil means slog.Default().
	Logger *slog.Logger
}

// Server is the HTTP server of Serve.
type Server struct {
	listener net.Listener
	http     *http.Server
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // of serving; read after done
}

// closeTimeout is how long Close waits for requests that are running.
const closeTimeout = 5 * time.Second

// Serve listens on a TCP address, such as "localhost:9567" or ":9567" (port 0
// picks one, see Addr), and answers in the background until Close.
func (t *Telemetry) Serve(addr string, o ServeOptions) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve metrics on %s: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", t.Handler())
	index := "/metrics\n"
	if o.Health != nil {
		mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Cache-Control", "no-store")
			text := "ok"
			if err := o.Health(r.Context()); err != nil {
				text = err.Error()
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = fmt.Fprintln(w, text) // the client may be gone
		})
		index += "/healthz\n"
	}
	if o.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		index += "/debug/pprof/\n"
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(index)) // the client may be gone
	})
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		listener: listener,
		cancel:   cancel,
		done:     make(chan struct{}),
		http: &http.Server{
			Handler:           mux,
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
			BaseContext:       func(net.Listener) context.Context { return ctx },
		},
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.err = fmt.Errorf("serve metrics on %s: %w", addr, err)
			o.Logger.Error("metrics server ended", "address", addr, "error", err)
		}
	}()
	return s, nil
}

// Addr is the address the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close stops listening, lets running requests finish for a few seconds and
// waits for the server's goroutines. Profiles that are being taken are cut short.
func (s *Server) Close() error {
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	<-s.done
	return errors.Join(err, s.err)
}
