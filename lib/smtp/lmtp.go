package smtp

// lmtpWords are Cyrus' texts where they differ from those of smtpd(8). Postfix
// and others put them into their logs and bounces.
var lmtpWords = map[Reply]Reply{
	{500, "5.5.2", "Error: command not recognized"}: {500, "5.5.2", "Syntax error"},
	{501, "", "Syntax: LHLO hostname"}:              {500, "5.5.2", "Syntax error"},
	{501, "5.5.4", "Syntax: MAIL FROM:<address>"}:   {501, "5.5.4", "Syntax error in parameters"},
	{501, "5.5.4", "Syntax: RCPT TO:<address>"}:     {501, "5.5.4", "Syntax error in parameters"},
	{503, "5.5.1", "Error: nested MAIL command"}:    {503, "5.5.1", "Nested MAIL command"},
	{503, "5.5.1", "Error: need MAIL command"}:      {503, "5.5.1", "Need MAIL command"},
	{503, "5.5.1", "Error: need RCPT command"}:      {503, "5.5.1", "No recipients"},
	{554, "5.5.1", "Error: no valid recipients"}:    {503, "5.5.1", "No recipients"},
	{354, "", "End data with <CR><LF>.<CR><LF>"}:    {354, "", "go ahead"},
}

// words is the reply as this kind of server says it.
func (c *Conn) words(r Reply) Reply {
	if c.srv.LMTP {
		if w, ok := lmtpWords[r]; ok {
			return w
		}
	}
	return r
}
