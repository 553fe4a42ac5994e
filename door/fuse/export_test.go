package fuse

// AbortConnection aborts a mount's connection as somebody else would.
func AbortConnection(s *Server) error { return abortConnection(s.mountpoint, s.dev) }
