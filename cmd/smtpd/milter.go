package smtpd

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"angarium/lib/access"
	"angarium/lib/conf/mailconf"
	"angarium/lib/conf/maincf"
	"angarium/lib/maillog"
	"angarium/lib/milter"
	"angarium/lib/smtpd"
)

// milters reads smtpd_milters, and smtpd_milter_maps, which knows other filters, or
// none (DISABLE), for single clients.
func milters(conf *maincf.Config, c *smtpd.Config, log *maillog.Logger) error {
	if slices.Contains(overrides(conf), "no_milters") {
		return nil
	}
	all, err := mailconf.Milters(conf, conf.List("smtpd_milters"), log)
	if err != nil {
		return err
	}
	table, err := mailconf.Table(conf, "smtpd_milter_maps", log)
	if err != nil || all == nil && table == nil {
		return err
	}
	c.Macro = mailconf.MilterMacros(conf)
	c.Milters = func(ctx context.Context, a netip.Addr) *milter.Config {
		if table == nil {
			return all
		}
		value, ok, err := table.Lookup(ctx, a.String())
		switch {
		case err != nil:
			log.Warnf("smtpd_milter_maps: %v", err)
			return all
		case !ok:
			return all
		case strings.EqualFold(value, "DISABLE"):
			return nil
		}
		own, err := mailconf.Milters(conf, access.Words(value), log)
		if err != nil {
			log.Warnf("smtpd_milter_maps: %v", err)
			return all
		}
		return own
	}
	return nil
}
