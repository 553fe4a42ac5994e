package admin

import (
	"strconv"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// get answers GET /v1/TABLE/ID.
func (s *Server) get(q *request) (any, error) {
	sc := adminapi.SchemaOf(q.route.table)
	var e adminapi.Entity
	err := s.db.View(q.ctx, func(r kv.Reader) (err error) {
		e, err = find(r, sc, q.who, q.id)
		return err
	})
	if err != nil {
		return nil, err
	}
	sc.Redact(e)
	return e, nil
}

func (q *request) page() (limit int, after string, err error) {
	limit = 200
	if text := q.query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > 1000 {
			return 0, "", invalid("parameter \"limit\": use a number from 1 to 1000")
		}
	}
	return limit, q.query.Get("after"), nil
}

// list answers GET /v1/TABLE.
func (s *Server) list(q *request) (any, error) {
	limit, after, err := q.page()
	if err != nil {
		return nil, err
	}
	if after != "" && !isUUID(after) {
		return nil, invalid("parameter \"after\": use the value of \"next\"")
	}
	sc := adminapi.SchemaOf(q.route.table)
	page := adminapi.List[adminapi.Entity]{Items: []adminapi.Entity{}}
	err = s.db.View(q.ctx, func(r kv.Reader) error {
		return scan(r, sc, after, func(e adminapi.Entity) (bool, error) {
			if !q.who.sees(sc, e) || ended(e) && q.query.Get("retired") != "true" {
				return true, nil
			}
			if len(page.Items) == limit {
				page.Next = page.Items[limit-1].Base().ID
				return false, nil
			}
			sc.Redact(e)
			page.Items = append(page.Items, e)
			return true, nil
		})
	})
	return page, err
}

// ended tells whether an entity is only there for the record.
func ended(e adminapi.Entity) bool {
	switch e := e.(type) {
	case *adminapi.Volume:
		return e.Retired != nil
	case *adminapi.Token:
		return e.Revoked != nil
	}
	return false
}

// create answers POST /v1/TABLE.
func (s *Server) create(q *request) (any, error) {
	return s.change(q, "create", func(c *change) error {
		c.new = c.schema.New()
		b := c.new.Base()
		b.ID, b.Created, b.Changed = newID(), c.now, c.now
		if err := c.decode(q.body); err != nil {
			return err
		}
		if err := c.check(); err != nil {
			return err
		}
		if err := c.finish(); err != nil {
			return err
		}
		if err := c.who.mayWrite(c.schema, "create", c.new); err != nil {
			return err
		}
		if err := c.rename(); err != nil {
			return err
		}
		if t, ok := c.new.(*adminapi.Token); ok {
			return c.issue(t)
		}
		return putJSON(c.w, entityKey(c.schema.Table, b.ID), c.new)
	})
}

// update answers PATCH /v1/TABLE/ID.
func (s *Server) update(q *request) (any, error) {
	return s.change(q, "update", func(c *change) (err error) {
		if c.old, err = find(c.w, c.schema, c.who, q.id); err != nil {
			return err
		}
		if c.new, err = readEntity(c.w, c.schema, c.old.Base().ID); err != nil {
			return err
		}
		if err := c.who.mayWrite(c.schema, "update", c.old); err != nil {
			return err
		}
		if err := c.decode(q.body); err != nil {
			return err
		}
		if err := c.check(); err != nil {
			return err
		}
		if v, ok := c.old.(*adminapi.Volume); ok && v.Retired != nil {
			return refuse(adminapi.CodeConflict, "the volume %s is deleted", v.Name)
		}
		if err := c.finish(); err != nil {
			return err
		}
		c.new.Base().Changed = c.now
		if err := c.rename(); err != nil {
			return err
		}
		return putJSON(c.w, entityKey(c.schema.Table, c.new.Base().ID), c.new)
	})
}

// remove answers DELETE /v1/TABLE/ID.
func (s *Server) remove(q *request) (any, error) {
	_, err := s.change(q, "delete", func(c *change) (err error) {
		if c.old, err = find(c.w, c.schema, c.who, q.id); err != nil {
			return err
		}
		if c.new, err = readEntity(c.w, c.schema, c.old.Base().ID); err != nil {
			return err
		}
		if err := c.who.mayWrite(c.schema, "delete", c.old); err != nil {
			return err
		}
		keep, err := c.remove()
		if err != nil {
			return err
		}
		if err := c.unname(); err != nil {
			return err
		}
		if keep {
			return putJSON(c.w, entityKey(c.schema.Table, c.new.Base().ID), c.new)
		}
		c.w.Delete([]byte(entityKey(c.schema.Table, c.new.Base().ID)))
		return nil
	})
	return nil, err
}

// change runs a change as one transaction with its audit record and its events, makes
// it durable and tells who waits.
func (s *Server) change(q *request, action string, fn func(c *change) error) (any, error) {
	var c *change
	err := s.db.Update(q.ctx, func(w kv.Txn) error {
		c = &change{w: w, now: q.now, who: q.who, schema: adminapi.SchemaOf(q.route.table)}
		if err := fn(c); err != nil {
			return err
		}
		if err := putEvents(w, c.events); err != nil {
			return err
		}
		return appendAudit(w, c.auditOf(action))
	})
	if err != nil {
		return nil, err
	}
	if err := s.db.Sync(q.ctx); err != nil {
		return nil, err
	}
	if len(c.events) > 0 {
		s.tell()
	}
	b := c.new.Base()
	s.log.Info(action, "table", c.schema.Table, "id", b.ID, "name", b.Name, "token", q.who.token.ID, "remote", q.who.remote)
	c.schema.Redact(c.new)
	switch e := c.new.(type) {
	case *adminapi.Token:
		e.Token = c.secret
	case *adminapi.MetadataServer:
		e.Token = c.secret
	}
	return c.new, nil
}

// getAudit answers GET /v1/audit.
func (s *Server) getAudit(q *request) (any, error) {
	limit, text, err := q.page()
	if err != nil {
		return nil, err
	}
	if !q.who.is(adminapi.RoleAuditor) {
		return nil, refuse(adminapi.CodeForbidden, "the audit log takes the role auditor")
	}
	var after uint64
	if text != "" {
		if after, err = strconv.ParseUint(text, 10, 63); err != nil {
			return nil, invalid("parameter \"after\": use the number of a record")
		}
	}
	var page adminapi.List[adminapi.AuditRecord]
	err = s.db.View(q.ctx, func(r kv.Reader) (err error) {
		page, err = auditPage(r, q.who, after, limit)
		return err
	})
	return page, err
}

// getWhoami answers GET /v1/whoami.
func (s *Server) getWhoami(q *request) (any, error) {
	w := adminapi.Whoami{Token: *q.who.token, System: q.who.system(), Version: s.cfg.Version}
	if q.who.account != nil {
		w.AccountName = q.who.account.Name
	}
	return w, nil
}

// getHealth answers GET /v1/health.
func (s *Server) getHealth(q *request) (any, error) {
	err := s.db.View(q.ctx, func(r kv.Reader) error {
		_, err := r.Get([]byte("m"))
		return err
	})
	return Health{OK: true, Version: s.cfg.Version}, err
}
