package cloudfuse

// healthKeys are those of the health monitor.
var healthKeys = []string{
	"health_monitor.enable-monitoring", "health_monitor.stats-poll-interval-sec", "health_monitor.process-monitor-interval-sec",
	"health_monitor.output-path", "health_monitor.monitor-disable-list",
}
