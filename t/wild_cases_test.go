package t

import "strings"

var (
	esmtp = []string{"PIPELINING", "SIZE 1000000", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES", "SMTPUTF8"}
	slow  = []string{"SIZE 1000000", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES", "SMTPUTF8"}
	good  = server{ext: esmtp}
)

func answers(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func one(ext []string, kv ...string) []server { return []server{{ext: ext, answer: answers(kv...)}} }

const head = "From: <s@home.test>\nTo: <r@far.test>\nDate: Sat, 28 Nov 2026 10:00:00 +0000\nMessage-Id: <1@home.test>\nSubject: hello\n"

var two = []string{"@ MX 10 a.@", "@ MX 20 b.@", "a.@ A SELF1", "b.@ A SELF2"}

var wildCases = []wildCase{
	{name: "plain", servers: []server{good}},
	{name: "slow", servers: []server{{ext: slow}}, to: []string{"a", "b"}},
	{name: "bare", servers: []server{{}}},
	{name: "refused", servers: []server{{closed: true}}},
	{name: "refusedmx", zone: two, servers: []server{{closed: true}, good}},
	{name: "deadmx", zone: two, servers: []server{{closed: true}, {closed: true}}},
	{name: "hanggreet", servers: []server{{greet: "hang"}}},
	{name: "hanggreetmx", zone: two, servers: []server{{greet: "hang"}, good}},
	{name: "dropgreet", servers: []server{{greet: "drop"}}},
	{name: "rstehlo", servers: one(nil, "EHLO", "rst")},
	{name: "greet421", servers: []server{{greet: "421 4.3.2 too busy+drop"}}},
	{name: "greet421mx", zone: two, servers: []server{{greet: "421 4.3.2 too busy"}, good}},
	{name: "greet554", servers: []server{{greet: "554 no mail here"}}},
	{name: "greet554mx", zone: two, servers: []server{{greet: "554 5.7.1 no mail here"}, good}},
	{name: "greet554no", servers: []server{{greet: "554 5.3.0 no mail here"}}, settings: []string{"smtp_skip_5xx_greeting = no"}},
	{name: "greet521", servers: []server{{greet: "521 no mail here"}}},
	{name: "greetbad", servers: []server{{greet: "hello there"}}},
	{name: "greetlong", servers: []server{{greet: "220-one\n220-two\n220 three"}}},
	{name: "greetself", servers: []server{{greet: "220 us.test ESMTP", ext: esmtp}}},
	{name: "ehloself", servers: []server{{answer: answers("EHLO", "250-us.test\n250 PIPELINING")}}},
	{name: "ehloselfmx", zone: two, servers: []server{good, {answer: answers("EHLO", "250-us.test\n250 PIPELINING")}}},
	{name: "ehlo502", servers: one(nil, "EHLO", "502 what?")},
	{name: "ehlo421", servers: one(nil, "EHLO", "421 busy")},
	{name: "ehlo451", servers: one(nil, "EHLO", "451 later")},
	{name: "ehlodrop", servers: one(nil, "EHLO", "drop")},
	{name: "helo550", servers: one(nil, "EHLO", "502 what?", "HELO", "550 5.7.1 not you")},
	{name: "helo550mx", zone: two, servers: []server{{answer: answers("EHLO", "502 what?", "HELO", "550 5.7.1 not you")}, good}},
	{name: "ehlojunk", servers: one(nil, "EHLO", "250-peer.test\n250-PIPELINING\n250-\n250-SIZE abc\n250-  8BITMIME\n250-X-junk \n250 SIZE=3")},
	{name: "noesmtp", servers: []server{{greet: "220 peer.test SMTP"}}},
	{name: "neverehlo", servers: []server{good}, settings: []string{"smtp_always_send_ehlo = no", "smtp_never_send_ehlo = yes"}},
	{name: "notalways", servers: []server{{greet: "220 peer.test SMTP"}}, settings: []string{"smtp_always_send_ehlo = no"}},
	{name: "discard", servers: []server{good}, settings: []string{"smtp_discard_ehlo_keywords = pipelining, dsn"}},
	{name: "mail451", servers: one(esmtp, "MAIL", "451 4.3.0 not now")},
	{name: "mail451mx", zone: two, servers: []server{{ext: esmtp, answer: answers("MAIL", "451 4.3.0 not now")}, good}},
	{name: "mail550", servers: one(esmtp, "MAIL", "550 5.7.1 never")},
	{name: "mail550slow", servers: one(slow, "MAIL", "550 5.7.1 never"), to: []string{"a", "b"}},
	{name: "mail421", servers: one(esmtp, "MAIL", "421 4.3.2 bye")},
	{name: "mail503", servers: one(esmtp, "MAIL", "503 5.5.1 bad sequence")},
	{name: "maildrop", servers: one(esmtp, "MAIL", "drop")},
	{name: "mailhang", servers: one(esmtp, "MAIL", "hang")},
	{name: "maildropslow", servers: one(slow, "MAIL", "drop")},
	{name: "mailbad", servers: one(slow, "MAIL", "bogus")},
	{name: "mail354", differs: "an answer that makes no sense is no verdict: the mail waits", ours: "dsn=4.0.0, status=deferred", servers: one(slow, "MAIL", "354 what")},
	{name: "rcpt450", servers: one(esmtp, "RCPT TO:<b", "450 4.2.1 later", "RCPT TO:<c", "550 5.1.1 no such user"), to: []string{"a", "b", "c"}},
	{name: "rcpt450slow", servers: one(slow, "RCPT TO:<b", "450 4.2.1 later", "RCPT TO:<c", "550 5.1.1 no such user"), to: []string{"a", "b", "c"}},
	{name: "rcpt450mx", zone: two, servers: []server{{ext: esmtp, answer: answers("RCPT TO:<b", "450 4.2.1 later")}, good}, to: []string{"a", "b"}},
	{name: "rcptall550", servers: one(esmtp, "RCPT", "550 5.1.1 nobody"), to: []string{"a", "b"}},
	{name: "rcptall354", servers: one(esmtp, "RCPT", "550 5.1.1 nobody", "DATA", "354 go on then", ".", "554 5.5.1 no valid recipients"), to: []string{"a", "b"}},
	{name: "rcpt552", servers: one(esmtp, "RCPT", "552 too many")},
	{name: "rcpt552e", servers: one(esmtp, "RCPT", "552 5.2.2 quota")},
	{name: "rcpt503", servers: one(esmtp, "RCPT", "503 5.5.1 need MAIL")},
	{name: "rcpt421", servers: one(slow, "RCPT TO:<b", "421 4.7.0 enough"), to: []string{"a", "b", "c"}},
	{name: "rcpt521", servers: one(slow, "RCPT", "521 5.3.2 go away")},
	{name: "rcptdrop", servers: one(esmtp, "RCPT TO:<b", "drop"), to: []string{"a", "b"}},
	{name: "rcptdropslow", servers: one(slow, "RCPT TO:<b", "drop"), to: []string{"a", "b"}},
	{name: "rcptmulti", servers: one(esmtp, "RCPT", "550-5.1.1 no such user\n550-5.1.1 see http://peer.test/\n550 5.1.1 and go away")},
	{name: "rcptmixed", servers: one(esmtp, "RCPT", "550-5.1.1 no such user\n450 and go away")},
	{name: "rcptnocode", servers: one(esmtp, "RCPT", "550 unknown user")},
	{name: "rcptwrongcode", servers: one(esmtp, "RCPT", "550 4.1.1 unknown user")},
	{name: "rcptlong", servers: one(esmtp, "RCPT", "550 5.1.1 "+strings.Repeat("long ", 300))},
	{name: "rcptvery", differs: "Postfix cuts log lines at 2000 octets", ours: "rcptvery.test[127.1.61.1]:25: response longer than 2048: 550 5.1.1 long long long long ...", servers: one(esmtp, "RCPT", "550 5.1.1 "+strings.Repeat("long ", 3000))},
	{name: "rcpt8bit", servers: one(esmtp, "RCPT", "550 5.1.1 unbekannter Empf\xe4nger \x01\x7f")},
	{name: "rcpt600", differs: "an answer that makes no sense is no verdict: the mail waits", ours: "dsn=4.0.0, status=deferred", servers: one(slow, "RCPT", "650 5.1.1 what")},
	{name: "rcptcode", servers: one(slow, "RCPT", "550")},
	{name: "data451", servers: one(esmtp, "DATA", "451 4.3.0 not now")},
	{name: "data554", servers: one(esmtp, "DATA", "554 5.7.1 never"), to: []string{"a", "b"}},
	{name: "data250", differs: "an answer that makes no sense is no verdict: the mail waits", ours: "dsn=4.0.0, status=deferred", servers: one(slow, "DATA", "250 fine")},
	{name: "datadrop", servers: one(slow, "DATA", "drop")},
	{name: "datahang", servers: one(slow, "DATA", "hang")},
	{name: "bodydrop", servers: one(esmtp, "body", "drop")},
	{name: "body452", servers: one(esmtp, "body", "452 4.3.1 disk full+drop")},
	{name: "dot451", servers: one(esmtp, ".", "451 4.3.0 not now")},
	{name: "dot451mx", zone: two, servers: []server{{ext: esmtp, answer: answers(".", "451 4.3.0 not now")}, good}},
	{name: "dot550", servers: one(esmtp, ".", "550 5.7.1 spam"), to: []string{"a", "b"}},
	{name: "dot552", servers: one(esmtp, ".", "552 5.3.4 too big")},
	{name: "dotdrop", servers: one(esmtp, ".", "drop")},
	{name: "dotdropmx", zone: two, servers: []server{{ext: esmtp, answer: answers(".", "drop")}, good}},
	{name: "dothang", servers: one(esmtp, ".", "hang")},
	{name: "dotmulti", servers: one(esmtp, ".", "250-2.0.0 one\n250 2.0.0 two")},
	{name: "dotplain", servers: one(esmtp, ".", "250 ok")},
	{name: "dotbad", differs: "Postfix takes the answer to QUIT for the one to the message", ours: "broke the protocol (bad reply: \"ok\") while sending end of data -- message may be sent more than once", servers: one(esmtp, ".", "ok")},
	{name: "quitdrop", servers: one(esmtp, ".", "250 ok+drop")},

	{name: "sizesmall", servers: []server{{ext: []string{"SIZE 100"}}}},
	{name: "sizesmallmx", zone: two, servers: []server{{ext: []string{"SIZE 100"}}, good}},
	{name: "sizezero", servers: []server{{ext: []string{"SIZE 0", "PIPELINING"}}}},
	{name: "sizenone", servers: []server{{ext: []string{"SIZE"}}}},
	{name: "longline", servers: []server{good}, message: head + "\n" + strings.Repeat("0123456789", 250) + "\n." + strings.Repeat("x", 1200) + "\nend\n"},
	{name: "longlimit", servers: []server{good}, settings: []string{"smtp_line_length_limit = 100"}, message: head + "\n" + strings.Repeat("0123456789", 25) + "\nend\n"},
	{name: "nonewline", servers: []server{good}, message: head + "\nno end"},
	{name: "to8bit", servers: []server{{ext: []string{"PIPELINING"}}}, options: []string{"-B", "8BITMIME"},
		message: head + "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGr\xc3\xbc\xc3\x9fe = sch\xc3\xb6n \n." + strings.Repeat("\xc3\xbc", 60) + "\n\ttab\t\nend\n"},
	{name: "to8bitmulti", servers: []server{{ext: []string{"PIPELINING"}}}, options: []string{"-B", "8BITMIME"},
		message: head + "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=abc\nContent-Transfer-Encoding: 8bit\n\npreamble\n--abc\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGr\xc3\xbc\xc3\x9fe\n--abc\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: inner\nContent-Transfer-Encoding: 8bit\n\nGr\xc3\xbc\xc3\x9fe\n--abc\n\nplain, 7 bit only\n--abc--\nend\xc3\xbc\n"},
	{name: "to8bitnomime", servers: []server{{ext: []string{"PIPELINING"}}}, options: []string{"-B", "8BITMIME"}, message: head + "\nGr\xc3\xbc\xc3\x9fe\n"},
	{name: "to8bitoff", servers: []server{{ext: []string{"PIPELINING"}}}, options: []string{"-B", "8BITMIME"}, settings: []string{"disable_mime_output_conversion = yes"}, message: head + "\nGr\xc3\xbc\xc3\x9fe\n"},
	{name: "to8bitok", servers: []server{good}, options: []string{"-B", "8BITMIME"}, message: head + "\nGr\xc3\xbc\xc3\x9fe\n"},
	{name: "dsnok", servers: []server{good}, options: []string{"-N", "success,failure,delay", "-R", "hdrs", "-V", "env+id 1"}},
	{name: "dsnnone", servers: []server{{ext: []string{"PIPELINING"}}}, options: []string{"-N", "success", "-R", "hdrs", "-V", "env1"}},
	{name: "dsnnever", servers: one(esmtp, "RCPT", "550 5.1.1 no"), options: []string{"-N", "never"}},
	{name: "dsnfull", servers: one(esmtp, "RCPT", "550 5.1.1 no"), options: []string{"-R", "full", "-V", "x"}},
	{name: "dsnhdrs", servers: one(esmtp, "RCPT", "550 5.1.1 no"), options: []string{"-R", "hdrs"}},
	{name: "quoted", servers: []server{good}, to: []string{`"a b"`, `"x..y"`}},
	{name: "nullsender", servers: []server{good}, from: "<>"},
	{name: "utf8none", servers: []server{{ext: []string{"PIPELINING", "8BITMIME"}}}, to: []string{"\xc3\xbcber"}},
	{name: "utf8ok", servers: []server{good}, to: []string{"\xc3\xbcber"}},
	{name: "utf8header", servers: []server{{ext: []string{"PIPELINING", "8BITMIME"}}}, message: "From: <s@home.test>\nSubject: Gr\xc3\xbc\xc3\x9fe\n\nx\n"},

	{name: "nullmx", differs: "RFC 7505, 4.2: 5.1.10", ours: "dsn=5.1.10, status=bounced (Domain nullmx.test does not accept mail (nullMX))", zone: []string{"@ MX 0 ."}},
	{name: "cnamemx", zone: []string{"@ MX 10 mx.@", "mx.@ CNAME real.@", "real.@ A SELF1"}, servers: []server{good}},
	{name: "cnamedomain", zone: []string{"@ CNAME other.@", "other.@ MX 10 mx.@", "mx.@ A SELF1"}, servers: []server{good}},
	{name: "cnameloop", zone: []string{"@ CNAME x.@", "x.@ CNAME @"}},
	{name: "nowhere", zone: []string{"@ MX 10 gone.@"}},
	{name: "nowhere2", zone: []string{"@ MX 10 gone.@", "@ MX 20 b.@", "b.@ A SELF2"}, servers: []server{{closed: true}, good}},
	{name: "mxempty", zone: []string{"@ MX 10 a.@", "a.@ TXT x"}},
	{name: "mxservfail", zone: []string{"@ SERVFAIL"}},
	{name: "mxaservfail", zone: []string{"@ MX 10 a.@", "a.@ SERVFAIL"}},
	{name: "mxhalffail", zone: []string{"@ MX 10 a.@", "@ MX 20 b.@", "a.@ SERVFAIL", "b.@ A SELF2"}, servers: []server{{closed: true}, good}},
	{name: "mxfailignore", zone: []string{"@ SERVFAIL MX", "@ A SELF1"}, servers: []server{good}, settings: []string{"ignore_mx_lookup_error = yes"}},
	{name: "nxdomain", zone: []string{}},
	{name: "nodata", zone: []string{"@ TXT x"}},
	{name: "aservfail", zone: []string{"@ SERVFAIL A", "@ TXT x"}},
	{name: "mxip", zone: []string{"@ MX 10 127.0.0.1."}},
	{name: "loop", zone: []string{"@ MX 10 us.test."}},
	{name: "loopsecond", zone: []string{"@ MX 10 a.@", "@ MX 20 us.test.", "@ MX 30 c.@", "a.@ A SELF1", "c.@ A SELF3"}, servers: []server{{closed: true}, {closed: true}, good}},
	{name: "loopequal", zone: []string{"@ MX 10 a.@", "@ MX 10 us.test.", "a.@ A SELF1"}, servers: []server{good}},
	{name: "looprelay", zone: []string{"@ MX 10 us.test."}, settings: []string{"best_mx_transport = error:5.4.4 mine"}},
	{name: "loopa", zone: []string{"@ A 127.0.0.1"}},
	{name: "aaaadead", zone: []string{"@ AAAA fd00::1", "@ A SELF1"}, servers: []server{good}, settings: []string{"smtp_address_preference = ipv6"}},
	{name: "v4only", zone: []string{"@ AAAA fd00::1"}, settings: []string{"inet_protocols = ipv4"}},
	{name: "literal", hop: "[SELF]", servers: []server{good}},
	{name: "literalport", hop: "[SELF]:2525", servers: []server{{ext: esmtp, port: "2525"}}},
	{name: "portmx", hop: "portmx.test:2525", zone: []string{"@ MX 10 mx.@", "mx.@ A SELF1"}, servers: []server{{ext: esmtp, port: "2525"}}},
	{name: "service", hop: "[SELF]:submission", servers: []server{{ext: esmtp, port: "587"}}},
	{name: "badservice", differs: "a slip in a table ends no process", ours: "dsn=4.3.5, status=deferred (unknown service: nosuch/tcp)", hop: "[SELF]:nosuch"},
	{name: "badhop", differs: "a slip in a table ends no process", ours: "dsn=4.3.5, status=deferred (bad destination syntax: [127.1.", hop: "[SELF"},
	{name: "ipv6literal", hop: "[ipv6:::1]:2599"},
	{name: "bareip", hop: "SELF", servers: []server{good}},
	{name: "hopname", hop: "[mail.hopname.test]", zone: []string{"mail.@ A SELF1"}, servers: []server{good}},
	{name: "hopgone", hop: "[gone.hopgone.test]", zone: []string{"@ A SELF1"}},
	{name: "hophosts", hop: "[inhosts.test]", settings: []string{"smtp_host_lookup = native"}},
	{name: "hophostsdns", hop: "[inhosts.test]"},
	{name: "nodns", hop: "[SELF]", servers: []server{good}, settings: []string{"smtp_dns_support_level = disabled"}},
	{name: "nodnsname", hop: "[inhosts.test]", settings: []string{"smtp_dns_support_level = disabled"}},
	{name: "manyhops", hop: "[SELF]:2, [SELF]:3", servers: []server{{ext: esmtp, port: "3"}}},
	{name: "fallback", servers: []server{{closed: true}, good}, zone: []string{"@ A SELF1", "fb.@ A SELF2"}, settings: []string{"smtp_fallback_relay = [fb.fallback.test]"}},
	{name: "fallbacknx", servers: []server{{closed: true}, good}, zone: []string{"fb.@ A SELF2"}, settings: []string{"smtp_fallback_relay = [fb.fallbacknx.test]"}},
	{name: "fallback5", servers: []server{{ext: esmtp, answer: answers("RCPT", "550 5.1.1 no")}, good}, zone: []string{"@ A SELF1", "fb.@ A SELF2"}, settings: []string{"smtp_fallback_relay = [fb.fallback5.test]"}},
	{name: "fallback4", servers: []server{{ext: esmtp, answer: answers("RCPT TO:<b", "450 4.2.0 later")}, good}, to: []string{"a", "b"}, zone: []string{"@ A SELF1", "fb.@ A SELF2"}, settings: []string{"smtp_fallback_relay = [fb.fallback4.test]"}},
	{name: "fallbackdead", servers: []server{{closed: true}, {closed: true}}, zone: []string{"@ A SELF1", "fb.@ A SELF2"}, settings: []string{"smtp_fallback_relay = [fb.fallbackdead.test]"}},
	{name: "sessionlimit", zone: append([]string{"@ MX 30 c.@", "c.@ A SELF3"}, two...), servers: []server{{greet: "421 busy"}, {greet: "421 busy"}, good}},
	{name: "bind", servers: []server{good}, settings: []string{"smtp_bind_address = 127.0.0.77"}},
	{name: "helo", servers: []server{good}, settings: []string{"smtp_helo_name = other.test"}},
	{name: "noquit", servers: []server{good}, settings: []string{"smtp_skip_quit_response = no"}},

	{name: "lmtp", lmtp: true, hop: "inet:[SELF]:24", servers: []server{{ext: esmtp, port: "24", lmtp: true}}, to: []string{"a", "b"}},
	{name: "lmtpsome", lmtp: true, hop: "inet:[SELF]:24", to: []string{"a", "b", "c", "d"},
		servers: []server{{ext: esmtp, port: "24", lmtp: true, answer: answers("RCPT TO:<b", "550 5.1.1 no such mailbox", ".1", "250 2.1.5 one", ".2", "552 5.2.2 over quota", ".3", "452 4.2.2 over quota")}}},
	{name: "lmtpdrop", lmtp: true, hop: "inet:[SELF]:24", to: []string{"a", "b", "c"},
		servers: []server{{ext: esmtp, port: "24", lmtp: true, answer: answers(".2", "drop")}}},
	{name: "lmtpgone", lmtp: true, hop: "unix:/nowhere/socket"},
	{name: "lmtprefused", lmtp: true, hop: "inet:[SELF]:24"},
	{name: "lmtplhlo", lmtp: true, hop: "inet:[SELF]:24", servers: []server{{port: "24", lmtp: true, answer: answers("LHLO", "500 what?")}}},
	{name: "lmtpdsn", lmtp: true, hop: "inet:[SELF]:24", servers: []server{{port: "24", lmtp: true}}, options: []string{"-N", "success"}},
	{name: "lmtphost", lmtp: true, hop: "lmtphost.test:24", zone: []string{"@ MX 10 mx.@", "mx.@ A SELF2", "@ A SELF1"}, servers: []server{{ext: esmtp, port: "24", lmtp: true}}},

	{name: "tlsmay", servers: secure("good"), settings: tlsAt("may")},
	{name: "tlsmayself", servers: secure("self"), settings: tlsAt("may")},
	{name: "tlsmayexpired", servers: secure("expired"), settings: tlsAt("may")},
	{name: "tlsmaynone", servers: []server{good}, settings: tlsAt("may")},
	{name: "tlsmayrefused", servers: []server{{ext: []string{"STARTTLS", "PIPELINING"}, answer: answers("STARTTLS", "454 4.7.0 not now")}}, settings: tlsAt("may")},
	{name: "tlsmaybroken", servers: []server{{ext: []string{"STARTTLS", "PIPELINING"}, cert: "nonsense"}}, settings: tlsAt("may"),
		differs: "OpenSSL's words", ours: "tlsmaybroken/smtp: ID: Cannot start TLS: handshake failure\ntlsmaybroken/smtp: ID: to=<rcpt@tlsmaybroken.test>, relay=tlsmaybroken.test[127.1."},
	{name: "tlsencrypt", servers: secure("self"), settings: tlsAt("encrypt")},
	{name: "tlsencryptnone", servers: []server{good}, settings: tlsAt("encrypt")},
	{name: "tlsencryptrefused", servers: []server{{ext: []string{"STARTTLS", "PIPELINING"}, answer: answers("STARTTLS", "454 4.7.0 not now")}}, settings: tlsAt("encrypt")},
	{name: "tlsencryptmx", zone: two, servers: []server{good, secure("self")[0]}, settings: tlsAt("encrypt")},
	{name: "tlsverify", zone: tlsZone, servers: secure("good"), settings: tlsAt("verify")},
	{name: "tlsverifyother", zone: tlsZone, servers: secure("other"), settings: tlsAt("verify")},
	{name: "tlsverifyself", zone: tlsZone, servers: secure("self"), settings: tlsAt("verify")},
	{name: "tlsverifyexpired", zone: tlsZone, servers: secure("expired"), settings: tlsAt("verify")},
	{name: "tlssecure", zone: tlsZone, servers: secure("good"), settings: tlsAt("secure")},
	{name: "tlssecurewrong", zone: tlsZone, servers: secure("other"), settings: tlsAt("secure")},
	{name: "tlssecurematch", zone: tlsZone, servers: secure("good"), settings: append(tlsAt("secure"), "smtp_tls_secure_cert_match = .wild.test")},
	{name: "tlsprint", servers: secure("good"), settings: append(tlsAt("fingerprint"), "smtp_tls_fingerprint_cert_match = 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F, FINGERPRINT")},
	{name: "tlsprintwrong", servers: secure("good"), settings: append(tlsAt("fingerprint"), "smtp_tls_fingerprint_cert_match = 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F")},
	{name: "tlssni", servers: secure("good"), settings: append(tlsAt("may"), "smtp_tls_servername = nexthop")},
	{name: "tlspolicy", servers: secure("good"), settings: append(tlsAt("may"), "smtp_tls_policy_maps = inline:{ {tlspolicy.test = encrypt servername=a.b.test} }")},
	{name: "tlspolicynone", servers: secure("good"), settings: append(tlsAt("encrypt"), "smtp_tls_policy_maps = inline:{ {.test = none} }")},
	{name: "tlspolicybad", servers: secure("good"), settings: append(tlsAt("may"), "smtp_tls_policy_maps = inline:{ {tlspolicybad.test = sometimes} }"),
		differs: "the warning's words", ours: "dsn=4.7.5, status=deferred (client TLS configuration problem)"},
	{name: "tlspolicymatch", servers: secure("good"), settings: append(tlsAt("may"), "smtp_tls_policy_maps = inline:{ {tlspolicymatch.test = secure match=mx.wild.test} }")},
	{name: "tlswrap", servers: []server{{ext: esmtp, cert: "good", wrap: true}}, settings: append(tlsAt("encrypt"), "smtp_tls_wrappermode = yes")},
	{name: "daneee", zone: signed("3 1 1 GOOD-KEY-256"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "daneeecert", zone: signed("3 0 2 GOOD-CERT-512"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "daneeefull", zone: signed("3 1 0 GOOD-KEY-0"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "daneeeexpired", zone: signed("3 1 1 GOOD-KEY-256"), servers: secure("expired"), settings: tlsAt("dane")},
	{name: "daneagility", zone: signed("3 1 1 GOOD-KEY-256", "3 1 2 CA-KEY-512"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "danesecond", zone: signed("3 1 1 CA-KEY-256", "3 1 1 GOOD-KEY-256"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "daneta", zone: signed("2 0 1 CA-CERT-256"), servers: secure("chain"), settings: tlsAt("dane")},
	{name: "danetakey", zone: signed("2 1 2 CA-KEY-512"), servers: secure("chain"), settings: tlsAt("dane")},
	{name: "danetafull", zone: signed("2 0 0 CA-CERT-0"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "danetafullkey", zone: signed("2 1 0 CA-KEY-0"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "danetanot", zone: signed("2 0 1 CA-CERT-256"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "daneother", zone: signed("3 1 1 CA-KEY-256"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "danenone", zone: signed(), servers: secure("self"), settings: tlsAt("dane")},
	{name: "danenostarttls", zone: signed("3 1 1 GOOD-KEY-256"), servers: []server{good}, settings: tlsAt("dane")},
	{name: "danenoneclear", zone: signed(), servers: []server{good}, settings: tlsAt("dane")},
	{name: "daneunsigned", zone: []string{"@ MX 10 mx.@", "mx.@ A SELF1", "_25._tcp.mx.@ TLSA 3 1 1 CA-KEY-256"}, servers: secure("good"), settings: tlsAt("dane")},
	{name: "danehalf", zone: signed("3 1 1 GOOD-KEY-256")[1:], servers: secure("good"), settings: tlsAt("dane")},
	{name: "danehalfother", zone: signed("3 1 1 CA-KEY-256")[1:], servers: secure("good"), settings: tlsAt("dane")},
	{name: "danehalfencrypt", zone: signed("3 1 1 CA-KEY-256")[1:], servers: secure("good"), settings: append(tlsAt("dane"), "smtp_tls_dane_insecure_mx_policy = encrypt")},
	{name: "danehalfmay", zone: signed("3 1 1 CA-KEY-256")[1:], servers: []server{good}, settings: append(tlsAt("dane"), "smtp_tls_dane_insecure_mx_policy = may")},
	{name: "daneunusable", zone: signed("1 1 1 GOOD-KEY-256"), servers: secure("self"), settings: tlsAt("dane")},
	{name: "daneunusableclear", zone: signed("3 1 9 00"), servers: []server{good}, settings: tlsAt("dane")},
	{name: "danebadlength", zone: signed("3 1 1 0001"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "danebadcert", zone: signed("2 0 0 0001"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "danebadselector", zone: signed("3 7 1 GOOD-KEY-256"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "danefails", zone: append(signed(), "_25._tcp.mx.@ SERVFAIL"), servers: secure("good"), settings: tlsAt("dane"),
		differs: "Postfix asks twice", ours: "TLSA lookup error for mx.danefails.test:25"},
	{name: "danenomx", zone: []string{"@ SECURE", "@ A SELF1", "_25._tcp.@ SECURE", "_25._tcp.@ TLSA 3 1 1 GOOD-KEY-256"}, servers: secure("good"), settings: tlsAt("dane")},
	{name: "danealias", zone: []string{"@ SECURE", "@ MX 10 mx.@", "mx.@ SECURE", "mx.@ CNAME real.@", "real.@ SECURE", "real.@ A SELF1",
		"_25._tcp.real.@ SECURE", "_25._tcp.real.@ TLSA 3 1 1 GOOD-KEY-256"}, servers: secure("good"), settings: tlsAt("dane")},
	{name: "danealiasfrom", zone: []string{"@ SECURE", "@ MX 10 mx.@", "mx.@ SECURE", "mx.@ CNAME real.@", "real.@ A SELF1",
		"_25._tcp.mx.@ SECURE", "_25._tcp.mx.@ TLSA 3 1 1 GOOD-KEY-256"}, servers: secure("good"), settings: tlsAt("dane")},
	{name: "daneonly", zone: signed("3 1 1 GOOD-KEY-256"), servers: secure("good"), settings: tlsAt("dane-only")},
	{name: "daneonlyhalf", zone: signed("3 1 1 GOOD-KEY-256")[1:], servers: secure("good"), settings: tlsAt("dane-only")},
	{name: "daneonlynone", zone: signed(), servers: secure("good"), settings: tlsAt("dane-only")},
	{name: "daneonlyunusable", zone: signed("1 1 1 GOOD-KEY-256"), servers: secure("good"), settings: tlsAt("dane-only")},
	{name: "daneonlybad", zone: signed("3 1 1 0001"), servers: secure("good"), settings: tlsAt("dane-only")},
	{name: "danepolicy", zone: signed("3 1 1 GOOD-KEY-256"), servers: secure("good"), settings: append(tlsAt("may"), "smtp_dns_support_level = dnssec", "smtp_tls_policy_maps = inline:{ {danepolicy.test = dane-only} }")},
	{name: "danenodnssec", zone: signed("3 1 1 GOOD-KEY-256"), servers: secure("good"), settings: append(tlsAt("dane"), "smtp_dns_support_level = enabled")},
	{name: "daneonlynodnssec", zone: signed("3 1 1 GOOD-KEY-256"), servers: secure("good"), settings: append(tlsAt("dane-only"), "smtp_dns_support_level = enabled")},
	{name: "danehop", hop: "[mx.danehop.test]", zone: signed("3 1 1 GOOD-KEY-256"), servers: secure("good"), settings: tlsAt("dane")},
	{name: "danetwo", zone: append(signed("3 1 1 CA-KEY-256"), "@ MX 20 mx2.@", "mx2.@ SECURE", "mx2.@ A SELF2", "_25._tcp.mx2.@ SECURE", "_25._tcp.mx2.@ TLSA 3 1 1 GOOD-KEY-256"),
		servers: append(secure("good"), secure("good")...), settings: tlsAt("dane")},
	{name: "saslplain", servers: auth("AUTH PLAIN LOGIN"), settings: password("saslplain.test")},
	{name: "saslhost", zone: tlsZone, servers: auth("AUTH PLAIN"), settings: password("mx.saslhost.test")},
	{name: "saslport", hop: "[saslport.test]:2587", servers: []server{{port: "2587", ext: []string{"AUTH PLAIN"}}}, settings: password("[saslport.test]:2587")},
	{name: "saslstranger", servers: auth("AUTH PLAIN"), settings: password("else.test")},
	{name: "saslnotoffered", servers: []server{good}, settings: password("saslnotoffered.test")},
	{name: "saslnoplain", servers: auth("AUTH PLAIN LOGIN"), settings: append(password("saslnoplain.test"), "smtp_sasl_security_options = noplaintext, noanonymous")},
	{name: "sasllogin", servers: auth("AUTH LOGIN", "AUTH LOGIN", "334 VXNlcm5hbWU6", "bWU=", "334 UGFzc3dvcmQ6", "c2VjcmV0", "235 2.7.0 in"), settings: password("sasllogin.test")},
	{name: "saslcram", servers: auth("AUTH PLAIN CRAM-MD5", "AUTH CRAM-MD5", "334 PDFAeD4=", "bWUg", "235 2.7.0 in"), settings: password("saslcram.test")},
	{name: "saslfilter", servers: auth("AUTH PLAIN"), settings: append(password("saslfilter.test"), "smtp_sasl_mechanism_filter = login")},
	{name: "saslfilterpick", servers: auth("AUTH CRAM-MD5 PLAIN"), settings: append(password("saslfilterpick.test"), "smtp_sasl_mechanism_filter = !cram-md5, static:all")},
	{name: "saslforeign", servers: auth("AUTH XFOREIGN"), settings: password("saslforeign.test")},
	{name: "saslempty", servers: auth("AUTH"), settings: password("saslempty.test")},
	{name: "saslrefused", servers: auth("AUTH PLAIN", "AUTH", "535 5.7.8 no"), settings: password("saslrefused.test")},
	{name: "saslrefusedhard", servers: auth("AUTH PLAIN", "AUTH", "535 5.7.8 no"), settings: append(password("saslrefusedhard.test"), "smtp_sasl_auth_soft_bounce = no")},
	{name: "sasllater", servers: auth("AUTH PLAIN", "AUTH", "454 4.7.0 later"), settings: password("sasllater.test")},
	{name: "sasldrop", servers: auth("AUTH PLAIN", "AUTH", "drop"), settings: password("sasldrop.test")},
	{name: "saslnext", zone: two, servers: append(auth("AUTH PLAIN", "AUTH", "535 5.7.8 no"), good), settings: password("saslnext.test")},
	{name: "saslchallenge", servers: auth("AUTH CRAM-MD5", "AUTH", "334 ====="), settings: password("saslchallenge.test")},
	{name: "saslsender", servers: auth("AUTH PLAIN"), settings: append(password("s-saslsender@home.test"), "smtp_sender_dependent_authentication = yes")},
	{name: "saslsenderat", servers: auth("AUTH PLAIN"), settings: append(password("@home.test"), "smtp_sender_dependent_authentication = yes")},
	{name: "saslsenderoff", servers: auth("AUTH PLAIN"), settings: password("s-saslsenderoff@home.test")},
	{name: "sasltls", servers: []server{{ext: []string{"STARTTLS", "AUTH PLAIN"}, cert: "self"}}, settings: append(append(tlsAt("encrypt"), password("sasltls.test")...), "smtp_sasl_security_options = noplaintext")},
	{name: "sasltlsno", servers: []server{{ext: []string{"STARTTLS", "AUTH PLAIN"}, cert: "self"}}, settings: append(append(tlsAt("encrypt"), password("sasltlsno.test")...), "smtp_sasl_tls_security_options = noplaintext")},
	{name: "sasltlssure", zone: tlsZone, servers: []server{{ext: []string{"STARTTLS", "AUTH PLAIN"}, cert: "good"}}, settings: append(append(tlsAt("secure"), password("sasltlssure.test")...), "smtp_sasl_tls_security_options = noplaintext",
		"smtp_sasl_tls_verified_security_options = noanonymous")},
	{name: "xforward", client: "joe+s.test", servers: one(append([]string{"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"}, esmtp...)), settings: []string{"smtp_send_xforward_command = yes"}},
	{name: "xforwardslow", client: "joe.test", servers: one([]string{"XFORWARD NAME PROTO IDENT"}), settings: []string{"smtp_send_xforward_command = yes"}},
	{name: "xforwardlocal", servers: one(append([]string{"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"}, esmtp...)), settings: []string{"smtp_send_xforward_command = yes"}},
	{name: "xforwardnot", client: "joe.test", servers: one(append([]string{"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"}, esmtp...))},
	{name: "xforwardunknown", client: "joe.test", servers: []server{good}, settings: []string{"smtp_send_xforward_command = yes"}},
	{name: "xforwardrefused", client: "joe.test", servers: one(append([]string{"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"}, esmtp...), "XFORWARD", "550 5.7.0 who are you"), settings: []string{"smtp_send_xforward_command = yes"}},
	{name: "xforwardslowdrop", client: "joe.test", servers: one([]string{"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"}, "XFORWARD PROTO", "drop"), settings: []string{"smtp_send_xforward_command = yes"}},
	{name: "tlsinject", servers: []server{{ext: []string{"STARTTLS", "PIPELINING"}, cert: "good", inject: "\r\n250 injected"}}, settings: tlsAt("encrypt")},
}

var tlsZone = []string{"@ MX 10 mx.@", "mx.@ A SELF1"}

func secure(cert string) []server {
	return []server{{ext: []string{"STARTTLS", "PIPELINING"}, cert: cert}}
}

func tlsAt(level string) []string {
	list := tlsSettings(level)
	if strings.HasPrefix(level, "dane") {
		list = append(list, "smtp_dns_support_level = dnssec")
	}
	return list
}

// auth is a server that wants to know who calls.
func auth(ext string, kv ...string) []server {
	return []server{{ext: []string{"PIPELINING", ext}, answer: answers(kv...)}}
}

// password is a table with one for a key.
func password(key string) []string {
	return []string{"smtp_sasl_auth_enable = yes", "smtp_sasl_security_options = noanonymous", "smtp_sasl_password_maps = inline:{ { " + key + " = me:secret } }"}
}

// signed is a zone under DNSSEC, whose mail exchanger has TLSA records. Without the
// first line the word of who is the exchanger is not signed.
func signed(records ...string) []string {
	list := []string{"@ SECURE", "@ MX 10 mx.@", "mx.@ SECURE", "mx.@ A SELF1"}
	for _, r := range records {
		list = append(list, "_25._tcp.mx.@ SECURE", "_25._tcp.mx.@ TLSA "+r)
	}
	return list
}

func tlsSettings(level string) []string {
	return []string{"smtp_tls_security_level = " + level, "smtp_tls_CAfile = DIR/ca.pem", "smtp_tls_loglevel = 1"}
}
