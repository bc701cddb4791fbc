package smtpd

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"angarium/lib/access"
	"angarium/lib/conf/mailconf"
	"angarium/lib/conf/maincf"
	"angarium/lib/smtpd"
)

// policyService is check_policy_service: how its argument is read, and who is asked.
func (r *reader) policyService() func(context.Context, string, *access.Subject) string {
	conf := r.conf
	base := smtpd.PolicyConfig{
		Timeout: conf.Duration("smtpd_policy_service_timeout"), MaxIdle: conf.Duration("smtpd_policy_service_max_idle"),
		MaxTTL: conf.Duration("smtpd_policy_service_max_ttl"), RetryDelay: conf.Duration("smtpd_policy_service_retry_delay"),
		TryLimit: conf.Int("smtpd_policy_service_try_limit"), RequestLimit: conf.Int("smtpd_policy_service_request_limit"),
		DefaultAction: conf.String("smtpd_policy_service_default_action"), Context: conf.String("smtpd_policy_service_policy_context"),
	}
	client := &smtpd.PolicyClient{Warn: r.log.Warnf}
	return func(ctx context.Context, service string, s *access.Subject) string {
		server, c, err := policyArg(service, base)
		if err != nil {
			r.log.Warnf("%v", err)
			return "451 4.3.5 Server configuration error"
		}
		return client.Ask(ctx, server, c, smtpd.Attributes(s, c.Context))
	}
}

// policyArg reads "inet:host:port", "unix:path" or "{ inet:host:port, timeout=10s,
// default_action=DUNNO }".
func policyArg(arg string, c smtpd.PolicyConfig) (server string, _ smtpd.PolicyConfig, err error) {
	inner, braces := strings.CutPrefix(arg, "{")
	if !braces {
		return arg, c, nil
	}
	words := splitArgs(strings.TrimSuffix(inner, "}"))
	if len(words) == 0 {
		return "", c, fmt.Errorf("check_policy_service: empty argument")
	}
	for _, w := range words[1:] {
		w = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(w, "{"), "}"))
		name, value, _ := strings.Cut(w, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch name {
		case "timeout":
			c.Timeout, err = mailconf.Seconds(value)
		case "max_idle":
			c.MaxIdle, err = mailconf.Seconds(value)
		case "max_ttl":
			c.MaxTTL, err = mailconf.Seconds(value)
		case "retry_delay":
			c.RetryDelay, err = mailconf.Seconds(value)
		case "try_limit":
			c.TryLimit, err = strconv.Atoi(value)
		case "request_limit":
			c.RequestLimit, err = strconv.Atoi(value)
		case "default_action":
			c.DefaultAction = value
		case "policy_context":
			c.Context = value
		default:
			err = fmt.Errorf("unknown attribute %q", name)
		}
		if err != nil {
			return "", c, fmt.Errorf("check_policy_service: bad attribute %q: %w", w, err)
		}
	}
	return words[0], c, nil
}

// splitArgs parts at commas and blanks; groups in braces stay whole.
func splitArgs(s string) []string { return access.Words(s) }

// rblReply makes replies from rbl_reply_maps and default_rbl_reply.
func (r *reader) rblReply() func(context.Context, int, access.RBLHit, *access.Subject) (string, error) {
	replies, err := mailconf.Table(r.conf, "rbl_reply_maps", r.log)
	r.fail(err)
	standard := r.conf.String("default_rbl_reply")
	return func(ctx context.Context, code int, h access.RBLHit, s *access.Subject) (string, error) {
		template := standard
		if replies != nil {
			own, ok, err := replies.Lookup(ctx, h.Zone)
			if err != nil {
				return "", err
			}
			if ok {
				template = own
			}
		}
		vars := map[string]string{
			"rbl_code": strconv.Itoa(code), "rbl_class": h.Class, "rbl_what": h.What, "rbl_domain": h.Zone, "rbl_reason": h.Reason, "rbl_txt": h.Reason,
			"client": s.ClientName + "[" + s.ClientAddr.String() + "]", "client_address": s.ClientAddr.String(), "client_name": s.ClientName,
			"reverse_client_name": s.ReverseName, "helo_name": s.Helo, "sasl_username": s.SASLUser,
		}
		if s.Sender != nil {
			vars["sender"], vars["sender_name"], vars["sender_domain"] = s.Sender.String(), s.Sender.Local, s.Sender.Domain
		}
		if s.Recipient != nil {
			vars["recipient"], vars["recipient_name"], vars["recipient_domain"] = s.Recipient.String(), s.Recipient.Local, s.Recipient.Domain
		}
		return maincf.Expand(template, func(name string) (string, bool) {
			v, ok := vars[name]
			return strings.ReplaceAll(v, "$", "_"), ok // strangers write no templates
		})
	}
}

// footer is smtpd_reject_footer_maps, which know texts by refusals, and
// smtpd_reject_footer for all others. Where the maps can't be asked the latter counts.
func (r *reader) footer(c *smtpd.Config) {
	all := r.conf.String("smtpd_reject_footer")
	texts := r.table("smtpd_reject_footer_maps")
	if all == "" && texts == nil {
		return
	}
	names := r.conf.String("smtpd_reject_footer_maps")
	c.Footer = func(ctx context.Context, refusal string) string {
		if texts == nil {
			return all
		}
		text, ok, err := texts.Lookup(ctx, refusal)
		if err != nil {
			r.log.Warnf("%s lookup error for \"%.100s\"", names, refusal)
		}
		if ok && err == nil {
			return text
		}
		return all
	}
	allowed := unescape(r.conf.String("smtpd_expansion_filter"))
	c.Expand = func(template string, lookup func(string) (string, bool)) string {
		text, err := maincf.Expand(template, func(name string) (string, bool) {
			v, ok := lookup(name)
			return strings.Map(func(c rune) rune {
				if c == '$' || !strings.ContainsRune(allowed, c) { // strangers write no templates
					return '_'
				}
				return c
			}, v), ok
		})
		if err != nil {
			r.log.Warnf("smtpd_reject_footer: %v", err)
		}
		return text
	}
}

// unescape replaces \t, \40 (octal) and \\ as C does; smtpd_expansion_filter has them.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		i++
		n := i
		for n < len(s) && n < i+3 && s[n] >= '0' && s[n] <= '7' {
			n++
		}
		if n > i {
			octet, _ := strconv.ParseUint(s[i:n], 8, 16)
			out.WriteByte(byte(octet))
			i = n - 1
			continue
		}
		if j := strings.IndexByte("abfnrtv", s[i]); j >= 0 {
			out.WriteByte("\a\b\f\n\r\t\v"[j])
		} else {
			out.WriteByte(s[i])
		}
	}
	return out.String()
}
