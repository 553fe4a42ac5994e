package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Client is a connection to a control socket. One call at a time uses it.
type Client struct {
	mu   sync.Mutex
	conn *net.UnixConn
	r    *bufio.Reader
	next int
	// OnEvents, if not nil, is called with the events that come while Call or Listen
	// run. It is set before these.
	OnEvents func([]Event)
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return &Client{conn: c.(*net.UnixConn), r: bufio.NewReader(c)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call sends a command and waits for its result, which is decoded into result
// unless that is nil. Errors of the command are of type *Error. progress, if not
// nil, is called with each progress message. When ctx is done the connection is
// closed, which cancels the command.
func (c *Client) Call(ctx context.Context, cmd string, args, result any, progress func(json.RawMessage)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	c.next++
	req := map[string]any{"cmd": cmd, "id": c.next}
	if args != nil {
		req["args"] = args
	}
	data, err := encodeMessage(req)
	if err != nil {
		return err
	}
	if _, err := c.conn.Write(data); err != nil {
		return c.failed(ctx, err)
	}
	for {
		frame, err := readFrame(c.r, nil)
		if err != nil {
			return c.failed(ctx, err)
		}
		var msg struct {
			Event    []Event         `json:"event"`
			Progress json.RawMessage `json:"progress"`
			Result   json.RawMessage `json:"result"`
			Error    *Error          `json:"error"`
			ID       int             `json:"id"`
		}
		if err := json.Unmarshal(frame, &msg); err != nil {
			return fmt.Errorf("control socket: answer: %w", err)
		}
		switch {
		case msg.Event != nil:
			if c.OnEvents != nil {
				c.OnEvents(msg.Event)
			}
		case msg.ID != c.next:
			continue
		case msg.Progress != nil:
			if progress != nil {
				progress(msg.Progress)
			}
		case msg.Error != nil:
			return msg.Error
		default:
			if result == nil {
				return nil
			}
			if err := json.Unmarshal(msg.Result, result); err != nil {
				return fmt.Errorf("control socket: result of %s: %w", cmd, err)
			}
			return nil
		}
	}
}

// failed closes the connection, whose state is unknown now.
func (c *Client) failed(ctx context.Context, err error) error {
	c.conn.Close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("control socket: %w", err)
}

// Listen calls OnEvents with the events of the connection's watches until ctx is done,
// whose error it then returns, or the server ends the connection (nil).
func (c *Client) Listen(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		frame, err := readFrame(c.r, nil)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return c.failed(ctx, err)
		}
		var msg struct {
			Event []Event `json:"event"`
		}
		if err := json.Unmarshal(frame, &msg); err != nil {
			return fmt.Errorf("control socket: event: %w", err)
		}
		if msg.Event != nil && c.OnEvents != nil {
			c.OnEvents(msg.Event)
		}
	}
}
